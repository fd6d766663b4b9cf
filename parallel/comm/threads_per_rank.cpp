#include "parallel/comm/threads_per_rank.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "core/check.h"

namespace upcycle {

CoreMask own_cores() {
  CoreMask mask;
  auto* set = reinterpret_cast<cpu_set_t*>(mask.bits.data());
  UPCYCLE_CHECK(sched_getaffinity(0, sizeof(mask.bits), set) == 0, "the cores of this process can not be read: {}",
                std::strerror(errno));
  return mask;
}

int threads_of(std::span<const CoreMask> on_machine, std::size_t own) {
  double share = 0;
  for (std::size_t word = 0; word < on_machine[own].bits.size(); ++word) {
    for (int bit = 0; bit < 64; ++bit) {
      const auto has = [&](const CoreMask& m) { return (m.bits[word] >> bit & 1) != 0; };
      if (has(on_machine[own]))
        share += 1.0 / static_cast<double>(std::count_if(on_machine.begin(), on_machine.end(), has));
    }
  }
  return std::max(1, static_cast<int>(std::floor(share + 1e-6)));  // three thirds may add up to slightly less than 1
}

}  // namespace upcycle
