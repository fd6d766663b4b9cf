#include "kernels/cpu/tile_matmul.h"

#include <algorithm>
#include <array>
#include <utility>

namespace upcycle {
namespace {

Vec multiply_add(Vec sum, const float* a, const float* b) { return *a * load_vec(b) + sum; }

// The accumulators of an R x (V vectors) corner of C stay in registers for the whole of k.
template <int R, int V>
void micro(int k, const float* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k, const float* b, std::ptrdiff_t ldb,
           float* c, std::ptrdiff_t ldc, bool accumulate) {
  Vec sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      sum[r][v] = accumulate ? load_vec(c + r * ldc + v * kLanes) : Vec{};
    }
  }
  for (int p = 0; p < k; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] = multiply_add(sum[r][v], a + r * a_row, b + v * kLanes);
    }
    a += a_k;
    b += ldb;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store_vec(c + r * ldc + v * kLanes, sum[r][v]);
  }
}

using Micro = void (*)(int, const float*, std::ptrdiff_t, std::ptrdiff_t, const float*, std::ptrdiff_t, float*,
                       std::ptrdiff_t, bool);

template <std::size_t... I>
constexpr auto micro_table(std::index_sequence<I...>) {
  return std::array<Micro, sizeof...(I)>{micro<I / kTileVectors + 1, I % kTileVectors + 1>...};
}

}  // namespace

void tile_matmul(int m, int n, int k, const float* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k, const float* b,
                 std::ptrdiff_t ldb, float* c, std::ptrdiff_t ldc, bool accumulate) {
  static constexpr auto kMicros = micro_table(std::make_index_sequence<kTileRows * kTileVectors>{});
  for (int j = 0; j < n; j += kTileVectors * kLanes) {
    const int vectors = std::min((n - j) / kLanes, kTileVectors);
    for (int i = 0; i < m; i += kTileRows) {
      const int rows = std::min(m - i, kTileRows);
      kMicros[static_cast<std::size_t>((rows - 1) * kTileVectors + vectors - 1)](k, a + i * a_row, a_row, a_k, b + j,
                                                                                 ldb, c + i * ldc + j, ldc, accumulate);
    }
  }
}

}  // namespace upcycle
