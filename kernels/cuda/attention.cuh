#pragma once
#include <cmath>

#include "core/check.h"
#include "kernels/attention_sizes.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/cuda_limits.h"

// What the attention kernels share. A key/value head serves G query heads; their rows are treated as one longer
// sequence of "packed" rows, p = row * G + head within the group, so that each key tile is read once for the whole
// group and the causal limit still rises with p. A row's arithmetic does not depend on its tile.
//
// These kernels multiply in fp32 from tiles in shared memory, for both types and any D up to 256: 16 x 16 threads, each
// computing kM x kM scores of a tile and, of its result rows, groups of 4 columns 64 apart.
namespace upcycle::cuda {

constexpr int kAttentionThreads = 256;
constexpr float kLog2e = 1.4426950408889634f;

template <class T>
struct Rows {
  T* data;
  std::int64_t stride;
  explicit Rows(const Tensor& t) : data(static_cast<T*>(t.data)), stride(t.row_stride) {}
};

struct AttentionShape {
  int G, D;
  std::int64_t Tq;
  float scale;  // of the scores
  const int *q_offsets, *k_offsets;
  unsigned tiles;      // of the longest sequence
  bool whole_vectors;  // rows may be read 16 bytes at a time
};

// The part of one block: tile `tile` of a sequence. blockIdx: x over sequences and tiles, y over key/value heads.
struct Part {
  int q_begin, q_rows, k_begin, k_rows, tile, head;
  __device__ __forceinline__ int shift() const { return k_rows - q_rows; }  // query row i sees keys up to i + shift
};
// Late query tiles see more keys: handing them out first leaves short ones to balance the end.
__device__ __forceinline__ Part part_of(const AttentionShape& s, bool last_first) {
  const unsigned sequence = blockIdx.x / s.tiles, tile = blockIdx.x % s.tiles;
  const int q0 = s.q_offsets[sequence], k0 = s.k_offsets[sequence];
  return {q0,
          s.q_offsets[sequence + 1] - q0,
          k0,
          s.k_offsets[sequence + 1] - k0,
          static_cast<int>(last_first ? s.tiles - 1 - tile : tile),
          static_cast<int>(blockIdx.y)};
}

// Where the forward's kernels find keys and values: rows packed like those of q.
template <class T_>
struct PackedKeys {
  using T = T_;
  static constexpr bool kLse = true;  // whether log-sum-exps are wanted
  Rows<const T> k, v;
  __device__ __forceinline__ Part part(const AttentionShape& s) const { return part_of(s, true); }
  // A function of r: where the head's part of key, or value, `first` + r begins.
  __device__ __forceinline__ auto keys_from(const Part& part, int D, int first) const {
    return rows_from(k, part, D, first);
  }
  __device__ __forceinline__ auto values_from(const Part& part, int D, int first) const {
    return rows_from(v, part, D, first);
  }

 private:
  __device__ __forceinline__ static auto rows_from(const Rows<const T>& rows, const Part& part, int D, int first) {
    const std::int64_t at = part.k_begin + first, stride = rows.stride;
    const T* const begin = rows.data + at * stride + static_cast<std::int64_t>(part.head) * D;
    return [=](int r) { return begin + r * stride; };
  }
};

// In pages of 2^log_p rows of each of K heads. `k_begin` of a part is where its sequence's row of the table begins.
template <class T_>
struct PagedKeys {
  using T = T_;
  static constexpr bool kLse = false;
  const T *k, *v;
  const int *lengths, *pages;
  int columns, K, log_p;  // columns of the table
  int rows_left_out;      // sequences with so many query rows are another kernel's
  __device__ __forceinline__ Part part(const AttentionShape& s) const {
    const unsigned sequence = blockIdx.x / s.tiles, tile = blockIdx.x % s.tiles;
    const int begin = s.q_offsets[sequence], rows = s.q_offsets[sequence + 1] - begin;
    return {begin,
            rows == rows_left_out ? 0 : rows,
            static_cast<int>(sequence) * columns,
            lengths[sequence],
            static_cast<int>(s.tiles - 1 - tile),
            static_cast<int>(blockIdx.y)};
  }
  __device__ __forceinline__ std::int64_t offset(int table, int head, int D, int j) const {
    const std::int64_t page = pages[table + (j >> log_p)];
    return (((page * K + head) << log_p) + (j & ((1 << log_p) - 1))) * D;
  }
  __device__ __forceinline__ auto keys_from(const Part& part, int D, int first) const {
    return [=, this](int r) { return k + offset(part.k_begin, part.head, D, first + r); };
  }
  __device__ __forceinline__ auto values_from(const Part& part, int D, int first) const {
    return [=, this](int r) { return v + offset(part.k_begin, part.head, D, first + r); };
  }
};

// Layout of a tile, kTile rows of heads of up to kD columns, in shared memory and over threads.
template <int kD_, int kTile_>
struct TileShape {
  static constexpr int kD = kD_, kTile = kTile_;
  static constexpr int kM = kTile / 16;      // rows, and keys, per thread
  static constexpr int kGroups = kD / 64;    // groups of 4 columns per thread
  static constexpr int kStride = kD + 4;     // floats: 16 rows of one column are in different banks
  static constexpr int kScores = kTile + 4;  // row stride of a tile of scores
  static constexpr int kTileFloats = kTile * kStride, kScoreFloats = kTile * kScores;
};

// to (kTile, kD) = `rows` rows, of which r begins at at(r); zeros beyond.
template <class Z, class T, class At>
__device__ __forceinline__ void load_rows(float* to, int rows, const AttentionShape& s, const At& at) {
  constexpr int N = Vector<T>::N;
  if (s.whole_vectors) {
    for (int i = threadIdx.x; i < Z::kTile * (Z::kD / N); i += kAttentionThreads) {
      const int r = i / (Z::kD / N), d = i % (Z::kD / N) * N;
      float x[N] = {};
      if (r < rows && d < s.D) load_global(x, at(r) + d);
#pragma unroll
      for (int j = 0; j < N; j += 4)
        *reinterpret_cast<float4*>(to + r * Z::kStride + d + j) = make_float4(x[j], x[j + 1], x[j + 2], x[j + 3]);
    }
  } else {
    for (int i = threadIdx.x; i < Z::kTile * Z::kD; i += kAttentionThreads) {
      const int r = i / Z::kD, d = i % Z::kD;
      to[r * Z::kStride + d] = r < rows && d < s.D ? to_float(at(r)[d]) : 0.0f;
    }
  }
}

// to (kTile, kD) = packed rows [begin, begin + rows) of `from`, whose row 0 is the first of the sequence at the first
// head of the group; zeros beyond. Keys have one head (G 1).
template <class Z, class T>
__device__ __forceinline__ void load_tile(float* to, const T* from, std::int64_t stride, int G, int begin, int rows,
                                          const AttentionShape& s) {
  load_rows<Z, T>(to, rows, s, [=, &s](int r) {
    const int p = begin + r;
    return from + p / G * stride + p % G * s.D;
  });
}

// scores[i][j] = row ty * kM + i of `a` times row tx + 16 j of `b`: in ascending d, so the sum does not depend on the
// row's position.
template <class Z>
__device__ __forceinline__ void multiply_rows(float (&scores)[Z::kM][Z::kM], const float* a, const float* b, int D) {
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < Z::kM; ++i)
#pragma unroll
    for (int j = 0; j < Z::kM; ++j) scores[i][j] = 0.0f;
  for (int d = 0; d < D; d += 4) {  // columns from D on are zeros
    float4 x[Z::kM], y[Z::kM];
#pragma unroll
    for (int i = 0; i < Z::kM; ++i) x[i] = *reinterpret_cast<const float4*>(a + (ty * Z::kM + i) * Z::kStride + d);
#pragma unroll
    for (int j = 0; j < Z::kM; ++j) y[j] = *reinterpret_cast<const float4*>(b + (tx + 16 * j) * Z::kStride + d);
#pragma unroll
    for (int i = 0; i < Z::kM; ++i)
#pragma unroll
      for (int j = 0; j < Z::kM; ++j) {
        scores[i][j] += x[i].x * y[j].x;
        scores[i][j] += x[i].y * y[j].y;
        scores[i][j] += x[i].z * y[j].z;
        scores[i][j] += x[i].w * y[j].w;
      }
  }
}

// sums[i][g] += weights[i] * the 4 columns from tx * 4 + 64 g of one row of a tile.
template <class Z>
__device__ __forceinline__ void add_row(float (&sums)[Z::kM][Z::kGroups][4], const float (&weights)[Z::kM],
                                        const float* row) {
  const int tx = threadIdx.x % 16;
#pragma unroll
  for (int g = 0; g < Z::kGroups; ++g) {
    const float4 x = *reinterpret_cast<const float4*>(row + tx * 4 + 64 * g);
#pragma unroll
    for (int i = 0; i < Z::kM; ++i) {
      sums[i][g][0] += weights[i] * x.x;
      sums[i][g][1] += weights[i] * x.y;
      sums[i][g][2] += weights[i] * x.z;
      sums[i][g][3] += weights[i] * x.w;
    }
  }
}

// This thread's columns of one row of results, times a factor.
template <class Z, class T>
__device__ __forceinline__ void store_row(T* row, const float (&x)[Z::kGroups][4], float factor, int D) {
#pragma unroll
  for (int g = 0; g < Z::kGroups; ++g)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int d = static_cast<int>(threadIdx.x) % 16 * 4 + 64 * g + c;
      if (d < D) row[d] = from_float<T>(x[g][c] * factor);
    }
}

template <int kM, int kGroups>
__device__ __forceinline__ void set_zero(float (&x)[kM][kGroups][4]) {
#pragma unroll
  for (int i = 0; i < kM; ++i)
#pragma unroll
    for (int g = 0; g < kGroups; ++g)
#pragma unroll
      for (int c = 0; c < 4; ++c) x[i][g][c] = 0.0f;
}

// Sums and maxima over the 16 threads that share rows.
__device__ __forceinline__ float row_max(float x) {
#pragma unroll
  for (int o = 8; o > 0; o >>= 1) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, o));
  return x;
}
__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
  for (int o = 8; o > 0; o >>= 1) x += __shfl_xor_sync(kFullWarp, x, o);
  return x;
}

// f.operator()<kD>() with the smallest tile width that holds heads of D columns.
template <class F>
void with_head_size(std::int64_t D, const F& f) {
  if (D <= 64) return f.template operator()<64>();
  if (D <= 128) return f.template operator()<128>();
  UPCYCLE_CHECK(D <= kLargestHead, "attention: heads of {} columns, at most {} are supported", D, kLargestHead);
  f.template operator()<256>();
}

inline AttentionShape attention_shape(const attention::Sizes& z, const PackedSequences& q_sequences,
                                      const PackedSequences& k_sequences, std::initializer_list<const Tensor*> read) {
  const std::int64_t per = 16 / static_cast<std::int64_t>(size_of((*read.begin())->dtype));
  bool whole = z.D % per == 0;
  for (const Tensor* t : read) whole = whole && whole_vectors(*t);
  return {static_cast<int>(z.G),
          static_cast<int>(z.D),
          z.Tq,
          z.scale,
          q_sequences.offsets.as<std::int32_t>(),
          k_sequences.offsets.as<std::int32_t>(),
          0,
          whole};
}

// Blocks over the tiles of all sequences (the longest has `rows` rows) and the key/value heads; sets s.tiles.
inline dim3 attention_grid(AttentionShape& s, std::int64_t rows, int tile, std::int64_t sequences, std::int64_t K) {
  const std::int64_t tiles = (rows + tile - 1) / tile, blocks = tiles * sequences;
  UPCYCLE_CHECK(rows < INT32_MAX && blocks < INT32_MAX && K < 65536,
                "attention: {} sequences of up to {} rows, {} heads are more than a launch holds", sequences, rows, K);
  s.tiles = static_cast<unsigned>(tiles);
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(K));
}

// On tensor cores; returns false and does nothing for types and sizes that these kernels do not support.
bool attention_forward_mma(Stream& stream, const Tensor& out, const Tensor& lse, const Tensor& q,
                           const PackedKeys<__nv_bfloat16>& keys, const AttentionShape& s, std::int64_t rows,
                           std::int64_t sequences, std::int64_t K);
bool attention_forward_mma(Stream& stream, const Tensor& out, const Tensor& lse, const Tensor& q,
                           const PagedKeys<__nv_bfloat16>& keys, const AttentionShape& s, std::int64_t rows,
                           std::int64_t sequences, std::int64_t K);
// On them or not, over pages; lse is not asked for.
void attention_forward_tiles(Stream& stream, const Tensor& out, const Tensor& q, const PagedKeys<float>& keys,
                             const AttentionShape& s, std::int64_t rows, std::int64_t sequences);
void attention_forward_tiles(Stream& stream, const Tensor& out, const Tensor& q, const PagedKeys<__nv_bfloat16>& keys,
                             const AttentionShape& s, std::int64_t rows, std::int64_t sequences);
bool attention_backward_mma(Stream& stream, const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                            const Tensor& q, const Tensor& k, const Tensor& v, const float* lse, const float* delta,
                            const AttentionShape& s, std::int64_t q_rows, std::int64_t k_rows, std::int64_t sequences,
                            std::int64_t K);

}  // namespace upcycle::cuda
