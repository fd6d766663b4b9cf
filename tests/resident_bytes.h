#pragma once
#include <unistd.h>

#include <cstddef>
#include <fstream>

#include "core/check.h"

namespace upcycle::test {

// What this process holds of the machine's memory.
inline std::size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::size_t pages = 0, resident = 0;
  statm >> pages >> resident;
  UPCYCLE_CHECK(statm.good(), "can not read /proc/self/statm");
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace upcycle::test
