#pragma once
#include <algorithm>
#include <array>
#include <cstdint>

// Sums over rows, for gradients of vectors.
namespace upcycle {

// sums[c] += sum over rows, ascending, of value(row, c), for `columns` columns. Threads share out blocks of columns, so
// the bits do not depend on how many they are.
template <class Value>
void add_column_sums(float* sums, std::int64_t rows, std::int64_t columns, const Value& value) {
  constexpr std::int64_t kColumns = 32, kParallelFrom = 1 << 15;
#pragma omp parallel for if (rows * columns >= kParallelFrom)
  for (std::int64_t begin = 0; begin < columns; begin += kColumns) {
    const std::int64_t width = std::min(kColumns, columns - begin);
    std::array<float, kColumns> sum{};
    for (std::int64_t r = 0; r < rows; ++r)
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) sum[static_cast<std::size_t>(c)] += value(r, begin + c);
    for (std::int64_t c = 0; c < width; ++c) sums[begin + c] += sum[static_cast<std::size_t>(c)];
  }
}

}  // namespace upcycle
