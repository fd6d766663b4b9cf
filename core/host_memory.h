#pragma once
#include <cstddef>
#include <string>

namespace upcycle {

struct HostMemory {
  std::size_t total = 0;  // bytes of this machine
  std::size_t free = 0;   // of them, what can still be allocated without swapping or an out-of-memory kill
};

// From /proc/meminfo, or from this process's control groups if they allow less (containers, SLURM). Cached files count
// as free, and so does free swap, up to the machine's total memory: idle pages of other programs can go there. `root`
// is prefixed to the paths that are read; only tests set it.
HostMemory host_memory(const std::string& root = "");

std::size_t resident_memory();  // bytes of this process

}  // namespace upcycle
