#pragma once
#include <algorithm>
#include <bit>
#include <type_traits>

#include "core/check.h"
#include "kernels/checks/elementwise.h"
#include "kernels/cuda/vector.cuh"

// Elementwise work over rows that may be strided: a thread has one group of N adjacent elements of one row.
namespace upcycle::cuda {

// N elements of T as floats: one by one if N is 1, else in 128-bit accesses.
template <class T, int N>
struct Access {
  static __device__ __forceinline__ void load(float (&f)[N], const T* p) {
    if constexpr (N == 1) {
      f[0] = to_float(*p);
    } else {
      constexpr int kPiece = Vector<T>::N;
      static_assert(N % kPiece == 0);
#pragma unroll
      for (int i = 0; i < N; i += kPiece) {
        float piece[kPiece];
        Vector<T>::load(piece, p + i);
#pragma unroll
        for (int j = 0; j < kPiece; ++j) f[i + j] = piece[j];
      }
    }
  }
  // To global memory.
  static __device__ __forceinline__ void store(T* p, const float (&f)[N]) {
    if constexpr (N == 1) {
      *p = from_float<T>(f[0]);
    } else {
      constexpr int kPiece = Vector<T>::N;
      static_assert(N % kPiece == 0);
#pragma unroll
      for (int i = 0; i < N; i += kPiece) {
        T piece[kPiece];
        uint4 bits;
#pragma unroll
        for (int j = 0; j < kPiece; ++j) piece[j] = from_float<T>(f[i + j]);
        memcpy(&bits, piece, sizeof(bits));
        gpu::store_global16(p + i, bits);
      }
    }
  }
};

// Blocks of kRowThreads threads, x over the groups of a row and y over rows: narrow rows share a block, wide ones (or
// one long row, which dense tensors are) take several.
constexpr unsigned kRowThreads = 256;

struct RowGrid {
  std::int64_t rows, groups;  // groups of one row
  unsigned across;            // blocks of one row; 32 bits, because every thread divides by it
};
struct Place {
  std::int64_t row, group;
  bool inside;
};

__device__ __forceinline__ Place place_in(const RowGrid& grid) {
  const std::int64_t row = std::int64_t{blockIdx.x / grid.across} * blockDim.y + threadIdx.y;
  const std::int64_t group = std::int64_t{blockIdx.x % grid.across} * blockDim.x + threadIdx.x;
  return {row, group, row < grid.rows && group < grid.groups};
}

// Launches kernel(grid, args...) unless there is nothing to do.
template <class... P, class... A>
void launch_rows(const char* op, Stream& stream, std::int64_t rows, std::int64_t groups, void (*kernel)(RowGrid, P...),
                 A... args) {
  if (rows == 0 || groups == 0) return;
  const unsigned x = groups >= kRowThreads ? kRowThreads : std::bit_ceil(static_cast<unsigned>(groups));
  const unsigned y = kRowThreads / x;
  const std::int64_t across = (groups + x - 1) / x, blocks = (rows + y - 1) / y * across;
  UPCYCLE_CHECK(blocks < std::int64_t{1} << 31, "{}: {} rows of {} groups are more than a launch holds", op, rows,
                groups);
  const RowGrid grid{rows, groups, static_cast<unsigned>(across)};
  UPCYCLE_CUDA(
      gpu::launch({dim3(static_cast<unsigned>(blocks)), dim3(x, y), 0, native(stream)}, kernel, grid, args...));
}

// Whether every row of t begins at a multiple of 16 bytes.
inline bool rows_aligned(const Tensor& t, const Extent& extent) {
  const std::int64_t row_bytes = t.row_stride * static_cast<std::int64_t>(size_of(t.dtype));
  return reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0 && (extent.rows == 1 || row_bytes % 16 == 0);
}

}  // namespace upcycle::cuda
