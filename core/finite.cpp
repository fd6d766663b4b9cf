#include "core/finite.h"

#include <algorithm>
#include <bit>

namespace upcycle {
namespace {

constexpr std::uint32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;

std::uint32_t magnitude(float x) { return std::bit_cast<std::uint32_t>(x) & kMagnitude; }

}  // namespace

std::int64_t first_not_finite(const float* values, std::int64_t n) {
  constexpr std::int64_t kBlock = 4096;  // per block, a branch-free maximum of the magnitudes
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t end = std::min(begin + kBlock, n);
    std::uint32_t most = 0;
    for (std::int64_t i = begin; i < end; ++i) most = std::max(most, magnitude(values[i]));
    if (most < kInfinity) continue;
    return std::find_if(values + begin, values + end, [](float x) { return magnitude(x) >= kInfinity; }) - values;
  }
  return -1;
}

}  // namespace upcycle
