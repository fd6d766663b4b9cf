#include "core/host_memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

namespace upcycle {
namespace {

constexpr std::size_t no_limit = std::numeric_limits<std::size_t>::max();

// The number after `name` in a file of lines "name 123" or "name: 123 kB"; `otherwise` if there is none.
std::size_t number_of(const std::string& path, const std::string& name, std::size_t otherwise) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string key, unit;
    std::size_t number = 0;
    if (!(words >> key >> number) || (key != name && key != name + ":")) continue;
    return words >> unit && unit == "kB" ? number * 1024 : number;
  }
  return otherwise;
}

// Reads a file that holds one number; "max" and a missing file mean no limit.
std::size_t number_in(const std::string& path) {
  std::size_t number = 0;
  return std::ifstream(path) >> number ? number : no_limit;
}

// What one control group can still allocate. Inactive cached files count as free: the kernel drops them first.
std::size_t free_in_group(const std::string& folder, bool version_2) {
  const std::size_t limit = number_in(folder + (version_2 ? "/memory.max" : "/memory.limit_in_bytes"));
  const std::size_t used = number_in(folder + (version_2 ? "/memory.current" : "/memory.usage_in_bytes"));
  if (limit == no_limit || used == no_limit) return no_limit;
  const std::size_t files = number_of(folder + "/memory.stat", version_2 ? "inactive_file" : "total_inactive_file", 0);
  const std::size_t taken = used - std::min(used, files);
  return limit - std::min(limit, taken);
}

// The smallest free amount of this process's group and its ancestors. Inside a container the path may be the host's,
// and the container's own group is mounted as the root.
std::size_t free_in_groups(const std::string& root) {
  std::size_t free = no_limit;
  std::ifstream in(root + "/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // "4:memory:/path" (version 1), "0::/path" (version 2)
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool version_2 = controllers.empty();
    if (!version_2 && controllers.find("memory") == controllers.npos) continue;
    const std::string mount = root + (version_2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory");
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      if (path == "/") path.clear();
      free = std::min(free, free_in_group(mount + path, version_2));
      if (path.find('/') == path.npos) break;
    }
  }
  return free;
}

}  // namespace

HostMemory host_memory(const std::string& root) {
  const std::string meminfo = root + "/proc/meminfo";
  const std::size_t pages =
      static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  HostMemory memory;
  memory.total = number_of(meminfo, "MemTotal", pages);
  memory.free = number_of(meminfo, "MemAvailable", memory.total) + number_of(meminfo, "SwapFree", 0);
  memory.free = std::min({memory.free, memory.total, free_in_groups(root)});
  return memory;
}

std::size_t resident_memory() { return number_of("/proc/self/status", "VmRSS", 0); }

}  // namespace upcycle
