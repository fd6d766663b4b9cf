#pragma once
#include <cstring>

#include "kernels/cuda/attention.cuh"

// Tiles of attention on tensor cores, bf16 with heads of 64 or 128 columns: kWarps warps share tiles of "others" (keys
// if own rows are query rows, and vice versa), which are loaded by cp.async one tile ahead; each warp has its own rows
// and keeps scores in registers, where a product's result has the layout of the next product's left factor.
//
// A lane has rows lane / 4 and lane / 4 + 8 of each 16-row product (half 0 and 1) and, of every 8 columns of a result,
// columns lane % 4 * 2 and the next: element c of its 4 is row half c / 2, column c % 2.
namespace upcycle::cuda {

using bf16_t = __nv_bfloat16;
constexpr int kWarps = 4;

// kM: 16-row products per warp, which share the loaded keys and values.
template <int kD_, int kM_, int kKeys_>
struct MmaTile {
  static constexpr int kD = kD_, kM = kM_;
  static constexpr int kRows = kWarps * kM * 16, kKeys = kKeys_;  // own rows, others
  static constexpr int kStride = kD + 8;                          // 8 rows of one column are in different banks
  static constexpr int kRowElements = kRows * kStride, kKeyElements = kKeys * kStride;
};

// Starts to copy `rows` rows, of which r begins at at(r), into a tile of kTileRows; rows beyond become zeros at once.
template <class Z, int kTileRows, class At>
__device__ __forceinline__ void fetch_rows(bf16_t* to, int rows, const At& from) {
  constexpr int kPieces = Z::kD / 8;
#pragma unroll 1  // unrolled, its addresses would take registers from the sums
  for (int i = threadIdx.x; i < kTileRows * kPieces; i += kWarps * 32) {
    const int r = i / kPieces, d = i % kPieces * 8;
    bf16_t* const at = to + r * Z::kStride + d;
    if (r < rows)
      gpu::cp_async16(at, from(r) + d);
    else
      *reinterpret_cast<uint4*>(at) = make_uint4(0, 0, 0, 0);
  }
}
// Packed rows [begin, begin + rows).
template <class Z, int kTileRows>
__device__ __forceinline__ void fetch_tile(bf16_t* to, const bf16_t* from, std::int64_t stride, int G, int begin,
                                           int rows) {
  fetch_rows<Z, kTileRows>(to, rows, [=](int r) {
    const int p = begin + r;
    return from + p / G * stride + p % G * Z::kD;
  });
}

__device__ __forceinline__ unsigned pack(float low, float high) {
  const __nv_bfloat162 h = __floats2bfloat162_rn(low, high);
  unsigned u;
  memcpy(&u, &h, sizeof u);
  return u;
}

// x = own rows (16 kM of this warp) times the rows of `others`, transposed: (16 kM, kKeys).
template <class Z>
__device__ __forceinline__ void multiply_tiles(float (&x)[Z::kM][Z::kKeys / 8][4], const bf16_t* own,
                                               const bf16_t* others) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < Z::kM; ++m)
#pragma unroll
    for (int n = 0; n < Z::kKeys / 8; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) x[m][n][c] = 0.0f;
#pragma unroll
  for (int d = 0; d < Z::kD; d += 16) {
    unsigned a[Z::kM][4];
#pragma unroll
    for (int m = 0; m < Z::kM; ++m) gpu::ldmatrix_x4(a[m], own + (m * 16 + lane % 16) * Z::kStride + d + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < Z::kKeys / 8; n += 2) {
      unsigned b[4];
      gpu::ldmatrix_x4(b, others + (n * 8 + lane / 16 * 8 + lane % 8) * Z::kStride + d + lane / 8 % 2 * 8);
      const unsigned low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < Z::kM; ++m) {
        gpu::mma_m16n8k16(x[m][n], a[m], low, x[m][n]);
        gpu::mma_m16n8k16(x[m][n + 1], a[m], high, x[m][n + 1]);
      }
    }
  }
}

// sums (16 kM, kD) += x (16 kM, kKeys), rounded to bf16, times `others` (kKeys, kD).
template <class Z>
__device__ __forceinline__ void add_tile(float (&sums)[Z::kM][Z::kD / 8][4], const float (&x)[Z::kM][Z::kKeys / 8][4],
                                         const bf16_t* others) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < Z::kKeys; j += 16) {
    unsigned a[Z::kM][4];
#pragma unroll
    for (int m = 0; m < Z::kM; ++m) {
      const float(&left)[4] = x[m][j / 8];
      const float(&right)[4] = x[m][j / 8 + 1];
      a[m][0] = pack(left[0], left[1]);
      a[m][1] = pack(left[2], left[3]);
      a[m][2] = pack(right[0], right[1]);
      a[m][3] = pack(right[2], right[3]);
    }
#pragma unroll
    for (int n = 0; n < Z::kD / 8; n += 2) {
      unsigned b[4];
      gpu::ldmatrix_x4_trans(b, others + (j + lane / 8 % 2 * 8 + lane % 8) * Z::kStride + n * 8 + lane / 16 * 8);
      const unsigned low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < Z::kM; ++m) {
        gpu::mma_m16n8k16(sums[m][n], a[m], low, sums[m][n]);
        gpu::mma_m16n8k16(sums[m][n + 1], a[m], high, sums[m][n + 1]);
      }
    }
  }
}

// Writes a warp's results (16 kM, kD), each row times the factor of its half, through `tile`, 16 kM rows of shared
// memory that only this warp reads, so that rows are stored in 16-byte pieces. to(r): where row r goes, null for none.
template <class Z, class To>
__device__ __forceinline__ void store_rows(bf16_t* tile, const float (&x)[Z::kM][Z::kD / 8][4],
                                           const float (&factor)[Z::kM][2], const To& to) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < Z::kM; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      bf16_t* const at = tile + (m * 16 + h * 8 + lane / 4) * Z::kStride + lane % 4 * 2;
#pragma unroll
      for (int g = 0; g < Z::kD / 8; ++g)
        *reinterpret_cast<__nv_bfloat162*>(at + g * 8) =
            __floats2bfloat162_rn(x[m][g][2 * h] * factor[m][h], x[m][g][2 * h + 1] * factor[m][h]);
    }
  __syncwarp();
  constexpr int kPieces = Z::kD / 8;
#pragma unroll
  for (int i = lane; i < 16 * Z::kM * kPieces; i += 32) {
    const int r = i / kPieces, d = i % kPieces * 8;
    bf16_t* const row = to(r);
    if (row != nullptr) gpu::store_global16(row + d, *reinterpret_cast<const uint4*>(tile + r * Z::kStride + d));
  }
}

}  // namespace upcycle::cuda
