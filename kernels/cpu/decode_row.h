#pragma once
#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cpu/attention_rows.h"

// Attention of one query row, as in decoding, of the G heads of a group: each key and value is read once, from where it
// lies, and used for all of them. Keys go by tiles of kKeys, and these by ranges of kRangeKeys, which are joined in
// order: so ranges may be given to different threads, and the result does not show it.
namespace upcycle::attention {

inline constexpr int kMostGroup = 8;  // query heads; with more of them attend_rows is faster
inline constexpr std::int64_t kRangeKeys = 512;

inline bool decodes(const Sizes& z) { return z.G <= kMostGroup && z.D % kLanes == 0; }

// What a range of keys gives for each head of the group, as in attend_rows.
struct Partial {
  float* o;        // (G, Dp)
  float* sum;      // (G, kLanes)
  float* highest;  // (G)
  static std::int64_t floats(const Sizes& z) { return padded(z.G * (z.Dp + kLanes + 1)); }
  Partial(float* at, const Sizes& z) : o(at), sum(o + z.G * z.Dp), highest(sum + z.G * kLanes) {}
};

struct DecodeScratch {
  float* q;  // (G, Dp)
  float* p;  // (G, kKeys)
  Partial all, range;
  static std::int64_t floats(const Sizes& z) { return z.G * (z.Dp + kKeys) + 2 * Partial::floats(z); }
  DecodeScratch(float* at, const Sizes& z)
      : q(at), p(q + z.G * z.Dp), all(p + z.G * kKeys, z), range(p + z.G * kKeys + Partial::floats(z), z) {}
};

// The rows of a tile: kKeys, of which those past the last are the last one again.
template <class T>
struct TileRows {
  const T* at[kKeys];
};

inline Vec load_wide(const float* p) { return load_vec(p); }
inline Vec load_wide(const bf16* p) {
  typedef std::uint16_t Halves __attribute__((vector_size(kLanes * 2)));
  typedef std::uint32_t Words __attribute__((vector_size(kLanes * 4)));
  Halves bits;
  std::memcpy(&bits, p, sizeof bits);
  return reinterpret_cast<Vec>(__builtin_convertvector(bits, Words) << 16);
}

// Lane i: the sum of the lanes of x[i]. Inlined so that these stay in registers.
template <int S = kLanes / 2>
[[gnu::always_inline]] inline Vec lane_sums(Vec* x) {
  IntVec low, high;
  for (int j = 0; j < kLanes; ++j) {
    low[j] = (j & S) != 0 ? kLanes + j - S : j;
    high[j] = (j & S) != 0 ? kLanes + j : j + S;
  }
#pragma GCC unroll 8
  for (int i = 0; i < S; ++i) x[i] = __builtin_shuffle(x[i], x[i + S], low) + __builtin_shuffle(x[i], x[i + S], high);
  if constexpr (S > 1) return lane_sums<S / 2>(x);
  return x[0];
}

// p (Q, kKeys) = q (Q, D) times the first n rows of a tile, transposed. Prefetches the same rows of the tile `ahead`.
template <int Q, class T>
void multiply_keys(float* p, const float* q, const TileRows<T>& rows, const TileRows<T>& ahead, int n, const Sizes& z) {
  constexpr int kAtOnce = kLanes / Q;
  for (int j = 0; j < n; j += kAtOnce) {
    Vec sums[kLanes] = {};
    for (std::int64_t d = 0; d < z.D; d += kLanes) {
      if (d * sizeof(T) % 64 == 0)
#pragma GCC unroll 16
        for (int r = 0; r < kAtOnce; ++r) __builtin_prefetch(ahead.at[j + r] + d, 0, 2);
#pragma GCC unroll 16
      for (int r = 0; r < kAtOnce; ++r) {
        const Vec key = load_wide(rows.at[j + r] + d);
#pragma GCC unroll 4
        for (int i = 0; i < Q; ++i) sums[i * kAtOnce + r] += key * load_vec(q + i * z.Dp + d);
      }
    }
    const Vec scores = lane_sums(sums);
    for (int i = 0; i < Q; ++i)
      std::memcpy(p + i * kKeys + j, reinterpret_cast<const float*>(&scores) + i * kAtOnce, kAtOnce * sizeof(float));
  }
}

// o (Q, V vectors) += p (Q, kKeys) times V vectors, from column d on, of the first n rows of a tile.
template <int Q, int V, class T>
void add_columns(float* o, const float* p, const TileRows<T>& rows, const TileRows<T>& ahead, int n, std::int64_t d,
                 const Sizes& z) {
  Vec sums[Q][V];
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[i][v] = load_vec(o + i * z.Dp + d + v * kLanes);
  for (int j = 0; j < n; ++j) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if (v * kLanes * sizeof(T) % 64 == 0) __builtin_prefetch(ahead.at[j] + d + v * kLanes, 0, 2);
      const Vec value = load_wide(rows.at[j] + d + v * kLanes);
#pragma GCC unroll 4
      for (int i = 0; i < Q; ++i) sums[i][v] += value * p[i * kKeys + j];
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store_vec(o + i * z.Dp + d + v * kLanes, sums[i][v]);
}

template <int Q, class T>
void add_values(float* o, const float* p, const TileRows<T>& rows, const TileRows<T>& ahead, int n, const Sizes& z) {
  std::int64_t d = 0;
  for (; d + kTileVectors * kLanes <= z.D; d += kTileVectors * kLanes)
    add_columns<Q, kTileVectors>(o, p, rows, ahead, n, d, z);
  for (; d < z.D; d += kLanes) add_columns<Q, 1>(o, p, rows, ahead, n, d, z);
}

// f.operator()<Q>(i) over the heads of a group, Q from i on at once.
template <class F>
void by_heads(std::int64_t G, const F& f) {
  std::int64_t i = 0;
  for (; i + 4 <= G; i += 4) f.template operator()<4>(i);
  if (i + 2 <= G) {
    f.template operator()<2>(i);
    i += 2;
  }
  if (i < G) f.template operator()<1>(i);
}

// Keys [begin, end) of a sequence. rows(k, v, first, n): where the n keys and values from `first` on lie.
template <class T, class Find>
void attend_range(const Partial& to, const DecodeScratch& w, const Sizes& z, std::int64_t begin, std::int64_t end,
                  const Find& find) {
  const float log2_scale = z.scale * kLog2e;
  std::memset(to.o, 0, static_cast<std::size_t>(z.G * z.Dp) * sizeof(float));
  std::memset(to.sum, 0, static_cast<std::size_t>(z.G * kLanes) * sizeof(float));
  std::fill_n(to.highest, z.G, kNothingSeen);
  struct Tile {
    TileRows<T> k, v;
  } tiles[2];
  const auto keys_at = [&](std::int64_t first) { return static_cast<int>(std::min<std::int64_t>(kKeys, end - first)); };
  find(tiles[0].k, tiles[0].v, begin, keys_at(begin));
  tiles[1] = tiles[0];  // what is prefetched where no tile follows
  for (std::int64_t first = begin, t = 0; first < end; first += kKeys, t ^= 1) {
    const int n = keys_at(first), vectors = (n + kLanes - 1) / kLanes;
    const Tile& tile = tiles[t];
    Tile& ahead = tiles[t ^ 1];
    if (const std::int64_t next = first + kKeys; next < end) find(ahead.k, ahead.v, next, keys_at(next));
    by_heads(z.G,
             [&]<int Q>(std::int64_t i) { multiply_keys<Q>(w.p + i * kKeys, w.q + i * z.Dp, tile.k, ahead.k, n, z); });
    for (std::int64_t i = 0; i < z.G; ++i)
      softmax_row(w.p + i * kKeys, vectors, n, log2_scale, to.highest[i], to.sum + i * kLanes, to.o + i * z.Dp, z.Dp);
    by_heads(z.G,
             [&]<int Q>(std::int64_t i) { add_values<Q>(to.o + i * z.Dp, w.p + i * kKeys, tile.v, ahead.v, n, z); });
  }
}

// `all` becomes what its keys and those of `range` give together.
inline void join(const Partial& all, const Partial& range, const Sizes& z) {
  const float log2_scale = z.scale * kLog2e;
  for (std::int64_t i = 0; i < z.G; ++i) {
    const float highest = std::max(all.highest[i], range.highest[i]);
    const Vec a = exp2_vec((all.highest[i] - highest) * log2_scale - Vec{});
    const Vec b = exp2_vec((range.highest[i] - highest) * log2_scale - Vec{});
    const auto add = [&](float* x, const float* y) { store_vec(x, load_vec(x) * a + load_vec(y) * b); };
    for (std::int64_t d = 0; d < z.D; d += kLanes) add(all.o + i * z.Dp + d, range.o + i * z.Dp + d);
    add(all.sum + i * kLanes, range.sum + i * kLanes);
    all.highest[i] = highest;
  }
}

}  // namespace upcycle::attention
