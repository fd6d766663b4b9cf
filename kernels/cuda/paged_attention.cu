#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/check.h"
#include "kernels/checks/paged_attention.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/cuda_ops.h"

// Prompts and chunks of them are the forward's tiles over pages. A single row, as in decoding, is bound by reading its
// keys and values: up to 8 heads of a group share them, ranges of keys go to different blocks, and a second kernel
// joins what these found (arXiv 2311.01282). Ranges follow from the sequence's own length, so no other sequence shows.
namespace upcycle::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
using scratch::keys_of_range, scratch::kMostRanges, scratch::ranges_of;
constexpr float kNothingSeen = -1e30f;  // finite, so that differences of two of them are 0

// What the ranges of single rows gave, by sequence, query head and range: sums of weighted values and, relative to the
// highest score, which is times log2(e), of weights.
struct Ranges {
  float* sums;               // (sequences, N, most, D)
  float *highest, *weights;  // (sequences, N, most)
  int most;                  // of one sequence
};

// How a block shares keys: kLanes lanes have the columns of one key, kVectors times 16 bytes each.
template <class T, int kD, int kG>
struct Shares {
  static constexpr int N = Vector<T>::N;
  static constexpr int kLanes = kD / N < 32 ? kD / N : 32;
  static constexpr int kVectors = kD / N / kLanes, kColumns = kVectors * N;  // of a lane
  static constexpr int kGroups = kThreads / kLanes;                          // keys at once
  static constexpr int kUnroll = kG == 8 || kVectors > 1 ? 2 : 4;            // times that are loaded ahead
};

// One range of one sequence's keys, for kG heads of a group.
template <class T, int kD, int kG>
__global__ void __launch_bounds__(kThreads)
    decode_range(Ranges to, Rows<const T> q, PagedKeys<T> keys, AttentionShape s) {
  using Z = Shares<T, kD, kG>;
  constexpr int kColumns = Z::kColumns;
  const int sequence = static_cast<int>(blockIdx.x) / to.most, range = static_cast<int>(blockIdx.x) % to.most;
  const int row = s.q_offsets[sequence], length = keys.lengths[sequence];
  const int size = keys_of_range(length), begin = range * size, end = min(length, begin + size);
  if (s.q_offsets[sequence + 1] - row != 1 || begin >= end) return;
  const int chunks = (s.G + kG - 1) / kG, head = static_cast<int>(blockIdx.y) / chunks;
  const int first_head = static_cast<int>(blockIdx.y) % chunks * kG, heads = min(kG, s.G - first_head);
  const std::int64_t n = static_cast<std::int64_t>(head) * s.G + first_head;
  const int lane = static_cast<int>(threadIdx.x) % Z::kLanes, group = static_cast<int>(threadIdx.x) / Z::kLanes;
  const auto column = [&](int c) { return (lane + c * Z::kLanes) * Z::N; };

  float x[kG][kColumns] = {}, sums[kG][kColumns] = {}, highest[kG], total[kG] = {};
#pragma unroll
  for (int g = 0; g < kG; ++g) {
    highest[g] = kNothingSeen;
#pragma unroll
    for (int c = 0; c < Z::kVectors; ++c) {
      if (g >= heads || column(c) >= s.D) continue;
      float piece[Z::N];
      load_global(piece, q.data + row * q.stride + (n + g) * s.D + column(c));
#pragma unroll
      for (int i = 0; i < Z::N; ++i) x[g][c * Z::N + i] = piece[i] * (s.scale * kLog2e);
    }
  }

  for (int first = begin; first < end; first += Z::kGroups * Z::kUnroll) {
    const auto seen = [&](int u) { return first + u * Z::kGroups + group < end; };
    std::int64_t at[Z::kUnroll];
#pragma unroll
    for (int u = 0; u < Z::kUnroll; ++u)
      at[u] = seen(u) ? keys.offset(sequence * keys.columns, head, s.D, first + u * Z::kGroups + group) : 0;
    uint4 k[Z::kUnroll][Z::kVectors] = {}, v[Z::kUnroll][Z::kVectors] = {};
#pragma unroll
    for (int u = 0; u < Z::kUnroll; ++u)
#pragma unroll
      for (int c = 0; c < Z::kVectors; ++c)
        if (seen(u) && column(c) < s.D) {
          k[u][c] = gpu::load_global16(keys.k + at[u] + column(c));
          v[u][c] = gpu::load_global16(keys.v + at[u] + column(c));
        }

    float score[Z::kUnroll][kG] = {};
#pragma unroll
    for (int u = 0; u < Z::kUnroll; ++u) {
      T key[kColumns];
      memcpy(key, k[u], sizeof key);
#pragma unroll
      for (int i = 0; i < kColumns; ++i)
#pragma unroll
        for (int g = 0; g < kG; ++g) score[u][g] += x[g][i] * to_float(key[i]);
#pragma unroll
      for (int o = Z::kLanes / 2; o > 0; o >>= 1)
#pragma unroll
        for (int g = 0; g < kG; ++g) score[u][g] += __shfl_xor_sync(kFullWarp, score[u][g], o);
    }
#pragma unroll
    for (int g = 0; g < kG; ++g) {
      const float before = highest[g];
#pragma unroll
      for (int u = 0; u < Z::kUnroll; ++u)
        if (seen(u)) highest[g] = fmaxf(highest[g], score[u][g]);
      const float shrink = exp2f(before - highest[g]);
      total[g] *= shrink;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) sums[g][i] *= shrink;
#pragma unroll
      for (int u = 0; u < Z::kUnroll; ++u) {
        score[u][g] = seen(u) ? exp2f(score[u][g] - highest[g]) : 0.0f;  // now its weight
        total[g] += score[u][g];
      }
    }
#pragma unroll
    for (int u = 0; u < Z::kUnroll; ++u) {
      T value[kColumns];
      memcpy(value, v[u], sizeof value);
#pragma unroll
      for (int i = 0; i < kColumns; ++i)
#pragma unroll
        for (int g = 0; g < kG; ++g) sums[g][i] += score[u][g] * to_float(value[i]);
    }
  }

  // Over the warp's groups, then over the warps, in order.
#pragma unroll
  for (int o = Z::kLanes; o < 32; o <<= 1)
#pragma unroll
    for (int g = 0; g < kG; ++g) {
      const float other = __shfl_xor_sync(kFullWarp, highest[g], o), most = fmaxf(highest[g], other);
      const float own_part = exp2f(highest[g] - most), other_part = exp2f(other - most);
      highest[g] = most;
      total[g] = total[g] * own_part + __shfl_xor_sync(kFullWarp, total[g], o) * other_part;
#pragma unroll
      for (int i = 0; i < kColumns; ++i)
        sums[g][i] = sums[g][i] * own_part + __shfl_xor_sync(kFullWarp, sums[g][i], o) * other_part;
    }
  GPU_SHARED(float, sums_of, [kWarps][kG][kD]);
  GPU_SHARED(float, highest_of, [kWarps][kG]);
  GPU_SHARED(float, total_of, [kWarps][kG]);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (static_cast<int>(threadIdx.x) % 32 < Z::kLanes) {
#pragma unroll
    for (int g = 0; g < kG; ++g) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) sums_of[warp][g][column(i / Z::N) + i % Z::N] = sums[g][i];
      if (lane == 0) highest_of[warp][g] = highest[g], total_of[warp][g] = total[g];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < heads * kD; i += kThreads) {
    const int g = i / kD, d = i % kD;
    float most = highest_of[0][g], sum = 0, weight = 0;
    for (int w = 1; w < kWarps; ++w) most = fmaxf(most, highest_of[w][g]);
    for (int w = 0; w < kWarps; ++w) {
      const float part = exp2f(highest_of[w][g] - most);
      sum += sums_of[w][g][d] * part;
      weight += total_of[w][g] * part;
    }
    const std::int64_t place = (sequence * (static_cast<std::int64_t>(keys.K) * s.G) + n + g) * to.most + range;
    if (d < s.D) to.sums[place * s.D + d] = sum;
    if (d == 0) to.highest[place] = most, to.weights[place] = weight;
  }
}

// A warp has one row of one head: joins the ranges of a single row in order, and writes zeros past the last sequence.
template <class T>
__global__ void __launch_bounds__(kThreads)
    join_ranges(Rows<T> out, Ranges from, const int* lengths, AttentionShape s, int sequences, int N) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= s.Tq * N) return;
  const int row = static_cast<int>(i / N), n = static_cast<int>(i % N), lane = static_cast<int>(threadIdx.x) % 32;
  T* const to = out.data + row * out.stride + static_cast<std::int64_t>(n) * s.D;
  if (row >= s.q_offsets[sequences]) {
    for (int d = lane; d < s.D; d += 32) to[d] = from_float<T>(0.0f);
    return;
  }
  int sequence = 0;  // the last that begins at or before the row
  for (int end = sequences; end - sequence > 1;) {
    const int middle = (sequence + end) / 2;
    (s.q_offsets[middle] <= row ? sequence : end) = middle;
  }
  if (from.most == 0 || s.q_offsets[sequence + 1] - s.q_offsets[sequence] != 1) return;
  const std::int64_t place = (static_cast<std::int64_t>(sequence) * N + n) * from.most;
  const int ranges = ranges_of(lengths[sequence]);
  float most = kNothingSeen, total = 0;
  for (int r = 0; r < ranges; ++r) most = fmaxf(most, from.highest[place + r]);
  for (int r = 0; r < ranges; ++r) total += from.weights[place + r] * exp2f(from.highest[place + r] - most);
  const float inverse = 1.0f / total;
  for (int d = lane; d < s.D; d += 32) {
    float sum = 0;
    for (int r = 0; r < ranges; ++r) sum += from.sums[(place + r) * s.D + d] * exp2f(from.highest[place + r] - most);
    to[d] = from_float<T>(sum * inverse);
  }
}

// Floats of `sequences` single rows with up to `keys` keys.
// f.operator()<kG>(), kG heads at once.
template <class F>
void with_group(std::int64_t G, const F& f) {
  if (G == 1) return f.template operator()<1>();
  if (G <= 4) return f.template operator()<4>();
  f.template operator()<8>();
}

}  // namespace
}  // namespace upcycle::cuda

namespace upcycle {

void CudaOps::paged_attention(Stream& stream, Workspace workspace, const Tensor& out, const Tensor& q,
                              const PagedCache& cache, const PagedSequences& sequences, float scale) {
  using namespace cuda;
  const PagedSizes p = check_paged_attention(out, q, cache, sequences, scale);
  const attention::Sizes& z = p.rows;
  UPCYCLE_CHECK(z.Tq * z.N < INT32_MAX && sequences.count * std::max<std::int64_t>(p.columns, kMostRanges) < INT32_MAX,
                "paged_attention: q {} and pages {} are more than a launch holds", q.describe(),
                sequences.pages.describe());
  const bool whole = z.D * static_cast<std::int64_t>(size_of(q.dtype)) % 16 == 0 && whole_vectors(q) &&
                     whole_vectors(cache.k) && whole_vectors(cache.v);
  const AttentionShape s{static_cast<int>(z.G),
                         static_cast<int>(z.D),
                         z.Tq,
                         z.scale,
                         sequences.offsets.as<std::int32_t>(),
                         nullptr,
                         0,
                         whole};
  const bool any = sequences.count > 0 && sequences.most_rows > 0, decodes = any && whole;
  Ranges ranges{};
  if (decodes) {
    ranges.most = ranges_of(static_cast<int>(sequences.most_keys));
    check_workspace("paged_attention", workspace,
                    scratch::paged_attention(sequences.count, z.N, z.D, sequences.most_keys));
    const std::int64_t places = sequences.count * z.N * ranges.most;
    ranges.sums = static_cast<float*>(workspace.data);
    ranges.highest = ranges.sums + places * z.D;
    ranges.weights = ranges.highest + places;
  }
  with_type(q, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const PagedKeys<T> keys{static_cast<const T*>(cache.k.data),
                            static_cast<const T*>(cache.v.data),
                            sequences.lengths.as<std::int32_t>(),
                            sequences.pages.as<std::int32_t>(),
                            static_cast<int>(p.columns),
                            static_cast<int>(z.K),
                            std::countr_zero(static_cast<unsigned>(p.P)),
                            decodes ? 1 : 0};
    if (any && (!decodes || sequences.most_rows > 1))
      attention_forward_tiles(stream, out, q, keys, s, sequences.most_rows * z.G, sequences.count);
    if (decodes) {
      with_head_size(z.D, [&]<int kD>() {
        with_group(z.G, [&]<int kG>() {
          const dim3 grid(static_cast<unsigned>(sequences.count * ranges.most),
                          static_cast<unsigned>(z.K * ((z.G + kG - 1) / kG)));
          UPCYCLE_CUDA(gpu::launch({grid, dim3(kThreads), 0, native(stream)}, decode_range<T, kD, kG>, ranges,
                                   Rows<const T>(q), keys, s));
        });
      });
    }
    if (z.Tq == 0) return;
    UPCYCLE_CUDA(gpu::launch(
        {dim3(static_cast<unsigned>((z.Tq * z.N + kWarps - 1) / kWarps)), dim3(kThreads), 0, native(stream)},
        join_ranges<T>, Rows<T>(out), ranges, sequences.lengths.as<std::int32_t>(), s,
        static_cast<int>(sequences.count), static_cast<int>(z.N)));
  });
}

}  // namespace upcycle
