#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/device.h"
#include "kernels/check.h"
#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/cpu_ops.h"

// FlashAttention (arXiv 2205.14135): online softmax over tiles of keys. A work item is a run of packed query rows of
// one sequence and key/value head; within it, blocks of six rows go through scores, softmax and values while their
// scores are still in L1 cache. A row's arithmetic does not depend on its work item, so results do not depend on the
// number of threads.
namespace upcycle {
namespace attention {
namespace {

constexpr std::int64_t kItemRows = 32 * kTileRows;  // enough to make loading a key tile cheap
// A masked score is below even the initial maximum of a row, so its weight is exactly 0, not exp(0).
constexpr float kNothingSeen = -1e30f, kHidden = -2e30f;

struct Scratch {
  float *q, *o;    // (kItemRows, Dp)
  float *k, *v;    // (kKeys, Dp)
  float* kt;       // (Dp, kKeys)
  float* p;        // (kTileRows, kKeys)
  float* sum;      // (kItemRows, kLanes) partial sums of weights
  float* highest;  // (kItemRows) highest score, unscaled
  static std::int64_t floats(std::int64_t Dp) {
    return (2 * kItemRows + 3 * kKeys) * Dp + kTileRows * kKeys + kItemRows * kLanes + kItemRows;
  }
  Scratch(float* at, std::int64_t Dp) {
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

float largest_lane(Vec x) {
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
    const Vec other = __builtin_shuffle(x, lane_indices() ^ half);
    x = x > other ? x : other;
  }
  return x[0];
}

// Turns one row's scores into weights relative to the row's new highest score, and rescales its earlier sums.
void softmax_row(float* s, int vectors, std::int64_t visible, float log2_scale, float& highest, float* sum, float* o,
                 std::int64_t Dp) {
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

template <class T>
void attend(const Scratch& w, const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
            const Sizes& z, const Span& span, std::int64_t head, std::int64_t begin, std::int64_t rows) {
  const float log2_scale = z.scale * kLog2e;
  const auto limit = [&](std::int64_t row) { return (begin + row) / z.G + span.shift(); };  // last key it sees
  load_queries(w.q, q.as<T>() + span.q_begin * q.row_stride + head * z.G * z.D, q.row_stride, begin, rows, z);
  std::memset(w.o, 0, static_cast<std::size_t>(rows * z.Dp) * sizeof(float));
  std::memset(w.sum, 0, static_cast<std::size_t>(rows * kLanes) * sizeof(float));
  std::fill_n(w.highest, rows, kNothingSeen);

  const std::int64_t keys_end = limit(rows - 1) + 1;
  for (std::int64_t first = 0; first < keys_end; first += kKeys) {
    const std::int64_t keys = std::min<std::int64_t>(kKeys, keys_end - first);
    const std::int64_t at = span.k_begin + first;
    load_keys(w.k, k.as<T>() + at * k.row_stride + head * z.D, k.row_stride, keys_end - first, z);
    load_keys(w.v, v.as<T>() + at * v.row_stride + head * z.D, v.row_stride, keys_end - first, z);
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
    const std::int64_t at = span.q_begin + (begin + row) / z.G;
    const std::int64_t n = head * z.G + (begin + row) % z.G;
    float total = 0.0f;
    for (int i = 0; i < kLanes; ++i) total += w.sum[row * kLanes + i];
    // Only a row that sees no key at all has weight sum 0; its output is 0.
    const float inverse = total == 0.0f ? 0.0f : 1.0f / total;
    T* to = out.as<T>() + at * out.row_stride + n * z.D;
    const float* o = w.o + row * z.Dp;
#pragma omp simd
    for (std::int64_t d = 0; d < z.D; ++d) store(to + d, o[d] * inverse);
    lse.as<float>()[n * z.Tq + at] =
        total == 0.0f ? -std::numeric_limits<float>::infinity() : w.highest[row] * z.scale + std::log(total);
  }
}

std::size_t forward_workspace(std::int64_t D) {
  return static_cast<std::size_t>(omp_get_max_threads() * padded(Scratch::floats(padded(D)))) * sizeof(float);
}

}  // namespace

}  // namespace attention

std::size_t CpuOps::attention_forward_workspace(const OpLimits& limits) {
  return limits.D == 0 ? 0 : attention::forward_workspace(limits.D);
}

void CpuOps::attention_forward(Stream& stream, Workspace workspace, const Tensor& out, const Tensor& lse,
                               const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t D,
                               const PackedSequences& q_sequences, const PackedSequences& k_sequences) {
  using namespace attention;
  const Sizes z = check_sizes(out, lse, q, k, v, D, q_sequences, k_sequences);
  const std::size_t needed = forward_workspace(D);
  check_workspace("attention_forward", workspace, needed);
  const std::int64_t heads = q_sequences.count * z.K;
  const std::int64_t longest = longest_of(q_sequences) * z.G;
  if (heads == 0 || longest == 0) return;
  std::int64_t item_rows = kItemRows;
  while (item_rows > 2 * kTileRows && heads * ((longest + item_rows - 1) / item_rows) < 4 * omp_get_max_threads()) {
    item_rows = item_rows / 2;
  }
  const std::int64_t blocks = (longest + item_rows - 1) / item_rows;
  const std::int64_t items = blocks * heads;
#pragma omp parallel if (items > 1)
  {
    const Scratch scratch(static_cast<float*>(workspace.data) + omp_get_thread_num() * padded(Scratch::floats(z.Dp)),
                          z.Dp);
    // Later blocks see more keys: handing them out first leaves small ones to balance the end.
#pragma omp for schedule(dynamic)
    for (std::int64_t item = 0; item < items; ++item) {
      const std::int64_t begin = (blocks - 1 - item / heads) * item_rows;
      const std::int64_t head = item % heads % z.K;
      const Span span = span_of(item % heads / z.K, q_sequences, k_sequences);
      const std::int64_t rows = std::min(item_rows, span.q_rows * z.G - begin);
      if (rows <= 0) continue;
      if (q.dtype == DType::BF16) {
        attend<bf16>(scratch, out, lse, q, k, v, z, span, head, begin, rows);
      } else {
        attend<float>(scratch, out, lse, q, k, v, z, span, head, begin, rows);
      }
    }
  }
  stream.poll();
}

}  // namespace upcycle
