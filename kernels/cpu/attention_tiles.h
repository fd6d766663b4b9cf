#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/attention_sizes.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/tile_matmul.h"

// What the forward and the backward of attention share. A key/value head serves G = N / K query heads; their rows are
// treated as one longer sequence of "packed" rows, p = row * G + head within the group, so that each key tile is read
// once for the whole group and the causal limit still rises with p.
namespace upcycle::attention {

inline constexpr int kKeys = 64;  // keys per tile
inline constexpr float kLog2e = 1.4426950408889634f;

// Rows of one sequence in q and in k. Query row i sees the keys up to i + shift.
struct Span {
  std::int64_t q_begin, q_rows, k_begin, k_rows;
  std::int64_t shift() const { return k_rows - q_rows; }
};

// sizes_of, and also throws Error unless the offsets ascend and stay within the rows.
Sizes check_sizes(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                  std::int64_t D, const PackedSequences& q_sequences, const PackedSequences& k_sequences, float scale);
Span span_of(std::int64_t sequence, const PackedSequences& q_sequences, const PackedSequences& k_sequences);
std::int64_t longest_of(const PackedSequences& sequences);

// 2^x to about 1 ulp for x below 127; results below 2^-126 are 0, NaN stays NaN. Polynomial: Cephes, exp2f.
inline Vec exp2_vec(Vec x) {
  const Vec lowest = -127.0f - Vec{};
  x = x < lowest ? lowest : x;
  const Vec round = 12582912.0f - Vec{};  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const Vec shifted = x + round;
  const Vec r = x - (shifted - round);
  Vec p = 1.535336188319500e-4f * r + 1.339887440266574e-3f;
  p = p * r + 9.618437357674640e-3f;
  p = p * r + 5.550332471162809e-2f;
  p = p * r + 2.402264791363012e-1f;
  p = p * r + 6.931472028550421e-1f;
  p = p * r + 1.0f;
  const IntVec exponent = (reinterpret_cast<IntVec>(shifted) - reinterpret_cast<IntVec>(round) + 127) << 23;
  return p * reinterpret_cast<Vec>(exponent);
}

inline IntVec lane_indices() {
  IntVec lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}

// Writes a row of a tile: D activations, padded with zeros.
template <class T>
void load_row(float* to, const T* from, const Sizes& z) {
#pragma omp simd
  for (std::int64_t d = 0; d < z.D; ++d) to[d] = load(from + d);
  for (std::int64_t d = z.D; d < z.Dp; ++d) to[d] = 0.0f;
}

// Loads a tile of keys or values: up to kKeys of the `left` rows that its sequence still has, then rows of zeros (whose
// weights are zero). Prefetches the next tile's rows: a head's part of a row is too short for the hardware prefetcher.
template <class T>
void load_keys(float* to, const T* from, std::int64_t row_stride, std::int64_t left, const Sizes& z) {
  const std::int64_t rows = left < kKeys ? left : kKeys;
  constexpr std::int64_t kCacheLine = 64 / sizeof(T);
  for (std::int64_t j = 0; j < rows; ++j) {
    const T* next = from + (j + kKeys) * row_stride;
    for (std::int64_t d = 0; d < z.D && j + kKeys < left; d += kCacheLine) __builtin_prefetch(next + d, 0, 2);
    load_row(to + j * z.Dp, from + j * row_stride, z);
  }
  std::memset(to + rows * z.Dp, 0, static_cast<std::size_t>((kKeys - rows) * z.Dp) * sizeof(float));
}

// Packed rows [begin, begin + rows); `from` is row 0 of the sequence at the first head of the group.
template <class T>
void load_queries(float* to, const T* from, std::int64_t row_stride, std::int64_t begin, std::int64_t rows,
                  const Sizes& z) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t p = begin + r;
    load_row(to + r * z.Dp, from + p / z.G * row_stride + p % z.G * z.D, z);
  }
}

// to (Dp, kKeys) = from (kKeys, Dp) transposed.
void transpose_keys(float* to, const float* from, std::int64_t Dp);

}  // namespace upcycle::attention
