#include "parallel/comm/sum_in_order.h"

#include <algorithm>
#include <cstddef>

#include "core/check.h"

namespace upcycle {
namespace {

// A block's sums stay in the first-level cache while all sources are added.
constexpr std::int64_t kBlock = 2048;
// Below this many elements starting threads costs more than the sum.
[[maybe_unused]] constexpr std::int64_t kThreaded = 32768;

// Stored is the bits of one element; load and store convert. Elementwise, so blocks and threads do not matter.
template <class Stored, class Sum>
void sum_blocks(void* out, std::span<const void* const> sources, std::int64_t n) {
  const auto load = [](Stored x) {
    if constexpr (sizeof(Stored) == sizeof(Sum)) {
      return x;
    } else {
      return to_float(x);
    }
  };
#pragma omp parallel for schedule(static) if (n >= kThreaded)
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, n - begin);
    alignas(64) Sum sum[kBlock];
    const Stored* first = static_cast<const Stored*>(sources[0]) + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) sum[i] = load(first[i]);
    for (std::size_t r = 1; r < sources.size(); ++r) {
      const Stored* x = static_cast<const Stored*>(sources[r]) + begin;
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) sum[i] += load(x[i]);
    }
    Stored* to = static_cast<Stored*>(out) + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      if constexpr (sizeof(Stored) == sizeof(Sum)) {
        to[i] = sum[i];
      } else {
        to[i] = to_bf16(sum[i]);
      }
    }
  }
}

}  // namespace

void sum_in_order(DType dtype, void* out, std::span<const void* const> sources, std::int64_t n) {
  UPCYCLE_CHECK(!sources.empty(), "a sum of no sources");
  switch (dtype) {
    case DType::F32:
      return sum_blocks<float, float>(out, sources, n);
    case DType::BF16:
      return sum_blocks<bf16, float>(out, sources, n);
    case DType::F64:
      return sum_blocks<double, double>(out, sources, n);
    default:
      UPCYCLE_CHECK(false, "{} is not summed", name_of(dtype));
  }
}

}  // namespace upcycle
