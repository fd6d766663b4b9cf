#pragma once
#include <cstddef>
#include <string>

namespace upcycle {

struct HostMemory {
  std::size_t total = 0;  // bytes of this machine
  std::size_t free = 0;   // of them, what can still be taken: more is swapped, or ends a program
};

// From /proc/meminfo, and from the control groups around this process where they allow less (containers, SLURM). Cached
// files count as free, and so does free swap up to the machine's own memory: the idle pages of other programs go there.
// `root` stands before the paths of the files that are read: "" but in tests.
HostMemory host_memory(const std::string& root = "");

}  // namespace upcycle
