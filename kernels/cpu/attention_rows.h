#pragma once
#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cpu/attention_tiles.h"

// FlashAttention (arXiv 2205.14135): online softmax over tiles of keys. A work item is a run of packed query rows of
// one sequence and key/value head; within it, blocks of six rows go through scores, softmax and values while their
// scores are still in L1 cache. A row's arithmetic does not depend on its work item, so results do not depend on the
// number of threads.
namespace upcycle::attention {

inline constexpr std::int64_t kItemRows = 32 * kTileRows;  // enough to make loading a key tile cheap
// A masked score is below even the initial maximum of a row, so its weight is exactly 0, not exp(0).
inline constexpr float kNothingSeen = -1e30f, kHidden = -2e30f;

struct RowScratch {
  float *q, *o;    // (kItemRows, Dp)
  float *k, *v;    // (kKeys, Dp)
  float* kt;       // (Dp, kKeys)
  float* p;        // (kTileRows, kKeys)
  float* sum;      // (kItemRows, kLanes) partial sums of weights
  float* highest;  // (kItemRows) highest score, unscaled
  static std::int64_t floats(std::int64_t Dp) {
    return (2 * kItemRows + 3 * kKeys) * Dp + kTileRows * kKeys + kItemRows * kLanes + kItemRows;
  }
  RowScratch(float* at, std::int64_t Dp) {
    const auto take = [&at](std::int64_t n) { return std::exchange(at, at + n); };
    q = take(kItemRows * Dp);
    o = take(kItemRows * Dp);
    k = take(kKeys * Dp);
    v = take(kKeys * Dp);
    kt = take(kKeys * Dp);
    p = take(kTileRows * kKeys);
    sum = take(kItemRows * kLanes);
    highest = take(kItemRows);
  }
};

inline float largest_lane(Vec x) {
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
    const Vec other = __builtin_shuffle(x, lane_indices() ^ half);
    x = x > other ? x : other;
  }
  return x[0];
}

// Turns one row's scores into weights relative to the row's new highest score, and rescales its earlier sums.
inline void softmax_row(float* s, int vectors, std::int64_t visible, float log2_scale, float& highest, float* sum,
                        float* o, std::int64_t Dp) {
  if (visible < vectors * kLanes) {
    for (int v = 0; v < vectors; ++v) {
      const IntVec hidden = lane_indices() + v * kLanes >= static_cast<std::int32_t>(visible);
      store_vec(s + v * kLanes, hidden ? kHidden - Vec{} : load_vec(s + v * kLanes));
    }
  }
  Vec largest = load_vec(s);
  for (int v = 1; v < vectors; ++v) {
    const Vec x = load_vec(s + v * kLanes);
    largest = x > largest ? x : largest;
  }
  const float before = highest;
  highest = std::max(before, largest_lane(largest));
  Vec total = load_vec(sum);
  if (highest > before) {
    const Vec shrink = exp2_vec((before - highest) * log2_scale - Vec{});
    total *= shrink;
    for (std::int64_t d = 0; d < Dp; d += kLanes) store_vec(o + d, load_vec(o + d) * shrink);
  }
  for (int v = 0; v < vectors; ++v) {
    const Vec weight = exp2_vec(load_vec(s + v * kLanes) * log2_scale - highest * log2_scale);
    total += weight;
    store_vec(s + v * kLanes, weight);
  }
  store_vec(sum, total);
}

inline float total_of(const float* sum) {
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += sum[i];
  return total;
}

// Attention of packed rows [begin, begin + rows) of one sequence and key/value head. `q`: row 0 of the sequence at the
// first head of the group. load(k, v, first, left): the tile of keys and values from key `first` on, of which there are
// `left`, in load_keys' form. done(p, o, total, highest): the result of packed row p is o / total, and its highest
// score, unscaled; a row that sees no key has total 0.
template <class T, class Load, class Done>
void attend_rows(const RowScratch& w, const T* q, std::int64_t q_stride, const Sizes& z, std::int64_t shift,
                 std::int64_t begin, std::int64_t rows, const Load& load, const Done& done) {
  const float log2_scale = z.scale * kLog2e;
  const auto limit = [&](std::int64_t row) { return (begin + row) / z.G + shift; };  // last key it sees
  load_queries(w.q, q, q_stride, begin, rows, z);
  std::memset(w.o, 0, static_cast<std::size_t>(rows * z.Dp) * sizeof(float));
  std::memset(w.sum, 0, static_cast<std::size_t>(rows * kLanes) * sizeof(float));
  std::fill_n(w.highest, rows, kNothingSeen);

  const std::int64_t keys_end = limit(rows - 1) + 1;
  for (std::int64_t first = 0; first < keys_end; first += kKeys) {
    const std::int64_t keys = std::min<std::int64_t>(kKeys, keys_end - first);
    load(w.k, w.v, first, keys_end - first);
    transpose_keys(w.kt, w.k, z.Dp);
    for (std::int64_t row = 0; row < rows; row += kTileRows) {
      const int m = static_cast<int>(std::min<std::int64_t>(kTileRows, rows - row));
      const int seen = static_cast<int>(std::min(keys, limit(row + m - 1) + 1 - first));
      if (seen <= 0) continue;
      const int vectors = (seen + kLanes - 1) / kLanes;
      tile_matmul(m, vectors * kLanes, static_cast<int>(z.D), w.q + row * z.Dp, z.Dp, 1, w.kt, kKeys, w.p, kKeys,
                  false);
      for (int r = 0; r < m; ++r) {
        softmax_row(w.p + r * kKeys, vectors, limit(row + r) + 1 - first, log2_scale, w.highest[row + r],
                    w.sum + (row + r) * kLanes, w.o + (row + r) * z.Dp, z.Dp);
      }
      tile_matmul(m, static_cast<int>(z.Dp), seen, w.p, kKeys, 1, w.v, z.Dp, w.o + row * z.Dp, z.Dp, true);
    }
  }

  for (std::int64_t row = 0; row < rows; ++row) {
    done(begin + row, w.o + row * z.Dp, total_of(w.sum + row * kLanes), w.highest[row]);
  }
}

// Writes o / total as D activations. Only a row that sees no key at all has weight sum 0; its output is 0.
template <class T>
void store_result(T* to, const float* o, float total, const Sizes& z) {
  const float inverse = total == 0.0f ? 0.0f : 1.0f / total;
#pragma omp simd
  for (std::int64_t d = 0; d < z.D; ++d) store(to + d, o[d] * inverse);
}

// Packed rows of a work item, where the sequences have up to `most` of them: fewer than kItemRows if there would not be
// enough items for all threads.
inline std::int64_t item_rows(std::int64_t heads, std::int64_t most, int threads) {
  std::int64_t rows = kItemRows;
  while (rows > 2 * kTileRows && heads * ((most + rows - 1) / rows) < 4 * threads) rows /= 2;
  return rows;
}

}  // namespace upcycle::attention
