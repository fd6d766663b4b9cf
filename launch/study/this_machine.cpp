#include "launch/study/this_machine.h"

#include <fmt/core.h>

#include <algorithm>
#include <fstream>
#include <thread>

namespace upcycle {

std::string this_machine() {
  std::string name = "this machine";
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) {
      name = line.substr(std::min(line.find(": "), line.size() - 2) + 2);
      break;
    }
  return fmt::format("{} cores of {}", std::thread::hardware_concurrency(), name);
}

}  // namespace upcycle
