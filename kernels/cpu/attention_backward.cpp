#include <omp.h>

#include <algorithm>
#include <utility>

#include "core/device.h"
#include "kernels/check.h"
#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/cpu_ops.h"

// FlashAttention's backward (arXiv 2205.14135, 2307.08691): weights are recomputed from the log-sum-exp. A work item is
// one sequence and key/value head. Its thread loops over the key tiles and, for each, over the packed query rows that
// see it: dk and dv of the tile are summed over the rows of all the group's heads, in row order; dq is summed over the
// tiles in key order. So the order of sums does not depend on the threads.
namespace upcycle {
namespace attention {
namespace {

constexpr std::int64_t kRows = 16 * kTileRows;  // query rows per step: the summed dimension of the dk and dv products

struct Scratch {
  float *k, *dk, *v, *dv;  // (kKeys, Dp)
  float *kt, *vt;          // (Dp, kKeys)
  float *q, *dout;         // (kRows, Dp)
  float *p, *ds;           // (kRows, kKeys)
  static std::int64_t floats(std::int64_t Dp) { return (6 * kKeys + 2 * kRows) * Dp + 2 * kRows * kKeys; }
  Scratch(float* at, std::int64_t Dp) {
    for (float** tile : {&k, &dk, &v, &dv, &kt, &vt}) *tile = std::exchange(at, at + kKeys * Dp);
    for (float** rows : {&q, &dout}) *rows = std::exchange(at, at + kRows * Dp);
    for (float** scores : {&p, &ds}) *scores = std::exchange(at, at + kRows * kKeys);
  }
};

// For all query rows, by key/value head and packed row. Each row belongs to one work item.
struct Shared {
  float* dq;     // (K, Tq * G, Dp)
  float* delta;  // (K, Tq * G): sum of dout * out, which is the sum over keys of weight * dweight
  float* lse2;   // (K, Tq * G): log2-sum-exp2
  static std::int64_t floats(std::int64_t Tq, std::int64_t N, std::int64_t Dp) { return Tq * N * (Dp + 2); }
};

struct Gradients {
  const Tensor &dq, &dk, &dv, &dout;
};
struct Inputs {
  const Tensor &q, &k, &v, &out, &lse;
};

template <class T>
void prepare_rows(const Shared& w, const Tensor& dout, const Tensor& out, const Tensor& lse, const Sizes& z,
                  const Span& span, std::int64_t head) {
  const std::int64_t rows = span.q_rows * z.G;
  std::memset(w.dq, 0, static_cast<std::size_t>(rows * z.Dp) * sizeof(float));
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t at = span.q_begin + row / z.G, n = head * z.G + row % z.G;
    const T* a = dout.as<T>() + at * dout.row_stride + n * z.D;
    const T* b = out.as<T>() + at * out.row_stride + n * z.D;
    float delta = 0.0f;
#pragma omp simd reduction(+ : delta)
    for (std::int64_t d = 0; d < z.D; ++d) delta += load(a + d) * load(b + d);
    w.delta[row] = delta;
    w.lse2[row] = lse.as<float>()[n * z.Tq + at] * kLog2e;
  }
}

// Rows of p: scores -> weights; rows of ds: dweights -> dscores (without the factor 1/sqrt(D)). `seen` keys of the
// first row, rising by one every G rows: packed row r of the step is row (r + phase) / G from there.
void weights_and_dscores(const Scratch& w, std::int64_t rows, std::int64_t keys_of_row_0, std::int64_t phase,
                         const float* lse2, const float* delta, const Sizes& z) {
  const float log2_scale = z.scale * kLog2e;
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto seen = static_cast<std::int32_t>(std::min<std::int64_t>(keys_of_row_0 + (r + phase) / z.G, kKeys));
    for (int j = 0; j < kKeys; j += kLanes) {
      float* p = w.p + r * kKeys + j;
      float* ds = w.ds + r * kKeys + j;
      if (j >= seen) {  // the scores of whole vectors past the block's last key were not even computed
        store_vec(p, Vec{});
        store_vec(ds, Vec{});
        continue;
      }
      Vec weight = exp2_vec(load_vec(p) * log2_scale - lse2[r]);
      Vec dscore = weight * (load_vec(ds) - delta[r]);
      if (j + kLanes > seen) {
        const IntVec hidden = lane_indices() + j >= seen;
        weight = hidden ? Vec{} : weight;
        dscore = hidden ? Vec{} : dscore;
      }
      store_vec(p, weight);
      store_vec(ds, dscore);
    }
  }
}

template <class T>
void store_rows(T* to, std::int64_t row_stride, const float* from, std::int64_t rows, float factor, const Sizes& z) {
  for (std::int64_t r = 0; r < rows; ++r) {
    T* row = to + r * row_stride;
    const float* x = from + r * z.Dp;
#pragma omp simd
    for (std::int64_t d = 0; d < z.D; ++d) store(row + d, x[d] * factor);
  }
}

template <class T>
void differentiate(const Scratch& w, const Shared& shared, const Gradients& grad, const Inputs& in, const Sizes& z,
                   const Span& span, std::int64_t head) {
  prepare_rows<T>(shared, grad.dout, in.out, in.lse, z, span, head);
  const std::int64_t all_rows = span.q_rows * z.G;
  const int D = static_cast<int>(z.D), Dp = static_cast<int>(z.Dp);
  const T* q = in.q.as<T>() + span.q_begin * in.q.row_stride + head * z.G * z.D;
  const T* dout = grad.dout.as<T>() + span.q_begin * grad.dout.row_stride + head * z.G * z.D;

  for (std::int64_t first = 0; first < span.k_rows; first += kKeys) {
    const std::int64_t at = span.k_begin + first;
    const std::int64_t keys = std::min<std::int64_t>(kKeys, span.k_rows - first);
    load_keys(w.k, in.k.as<T>() + at * in.k.row_stride + head * z.D, in.k.row_stride, span.k_rows - first, z);
    load_keys(w.v, in.v.as<T>() + at * in.v.row_stride + head * z.D, in.v.row_stride, span.k_rows - first, z);
    transpose_keys(w.kt, w.k, z.Dp);
    transpose_keys(w.vt, w.v, z.Dp);
    std::memset(w.dk, 0, static_cast<std::size_t>(kKeys * z.Dp) * sizeof(float));
    std::memset(w.dv, 0, static_cast<std::size_t>(kKeys * z.Dp) * sizeof(float));

    // Skip the rows before the first that sees this tile.
    for (std::int64_t row = std::max<std::int64_t>(0, first - span.shift()) * z.G; row < all_rows; row += kRows) {
      const std::int64_t rows = std::min(kRows, all_rows - row);
      // Keys of this tile that packed row r of the step sees.
      const auto seen = [&](std::int64_t r) { return std::min(keys, (row + r) / z.G + span.shift() + 1 - first); };
      load_queries(w.q, q, in.q.row_stride, row, rows, z);
      load_queries(w.dout, dout, grad.dout.row_stride, row, rows, z);
      for (std::int64_t r = 0; r < rows; r += kTileRows) {
        const int m = static_cast<int>(std::min<std::int64_t>(kTileRows, rows - r));
        const int n = static_cast<int>((seen(r + m - 1) + kLanes - 1) / kLanes * kLanes);
        tile_matmul(m, n, D, w.q + r * Dp, Dp, 1, w.kt, kKeys, w.p + r * kKeys, kKeys, false);
        tile_matmul(m, n, D, w.dout + r * Dp, Dp, 1, w.vt, kKeys, w.ds + r * kKeys, kKeys, false);
      }
      weights_and_dscores(w, rows, row / z.G + span.shift() + 1 - first, row % z.G, shared.lse2 + row,
                          shared.delta + row, z);
      const int n_rows = static_cast<int>(rows), n_keys = static_cast<int>(keys);
      tile_matmul(n_keys, Dp, n_rows, w.p, 1, kKeys, w.dout, Dp, w.dv, Dp, true);
      tile_matmul(n_keys, Dp, n_rows, w.ds, 1, kKeys, w.q, Dp, w.dk, Dp, true);
      tile_matmul(n_rows, Dp, static_cast<int>(seen(rows - 1)), w.ds, kKeys, 1, w.k, Dp, shared.dq + row * Dp, Dp,
                  true);
    }
    store_rows(grad.dk.as<T>() + at * grad.dk.row_stride + head * z.D, grad.dk.row_stride, w.dk, keys, z.scale, z);
    store_rows(grad.dv.as<T>() + at * grad.dv.row_stride + head * z.D, grad.dv.row_stride, w.dv, keys, 1.0f, z);
  }
  for (std::int64_t g = 0; g < z.G; ++g) {
    Sizes every_gth = z;
    every_gth.Dp = z.Dp * z.G;
    store_rows(grad.dq.as<T>() + span.q_begin * grad.dq.row_stride + (head * z.G + g) * z.D, grad.dq.row_stride,
               shared.dq + g * z.Dp, span.q_rows, z.scale, every_gth);
  }
}

std::size_t backward_workspace(std::int64_t Tq, std::int64_t N, std::int64_t D) {
  const std::int64_t Dp = padded(D);
  return static_cast<std::size_t>(omp_get_max_threads() * padded(Scratch::floats(Dp)) + Shared::floats(Tq, N, Dp)) *
         sizeof(float);
}

}  // namespace

}  // namespace attention

std::size_t CpuOps::attention_backward_workspace(const OpLimits& limits) {
  return limits.D == 0 ? 0 : attention::backward_workspace(limits.T, limits.N, limits.D);
}

void CpuOps::attention_backward(Stream& stream, Workspace workspace, const Tensor& dq, const Tensor& dk,
                                const Tensor& dv, const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                                const Tensor& out, const Tensor& lse, std::int64_t D,
                                const PackedSequences& q_sequences, const PackedSequences& k_sequences, float scale) {
  using namespace attention;
  const Sizes z = check_sizes(out, lse, q, k, v, D, q_sequences, k_sequences, scale);
  check_gradients(z, dq, dk, dv, dout, q);
  const std::size_t needed = backward_workspace(z.Tq, z.N, D);
  check_workspace("attention_backward", workspace, needed);
  float* const base = static_cast<float*>(workspace.data);
  float* const shared_base = base + omp_get_max_threads() * padded(Scratch::floats(z.Dp));
  const std::int64_t packed_rows = z.Tq * z.N;
  const std::int64_t items = q_sequences.count * z.K;
#pragma omp parallel if (items > 1)
  {
    const Scratch scratch(base + omp_get_thread_num() * padded(Scratch::floats(z.Dp)), z.Dp);
#pragma omp for schedule(dynamic)
    for (std::int64_t item = 0; item < items; ++item) {
      const std::int64_t head = item % z.K;
      const Span span = span_of(item / z.K, q_sequences, k_sequences);
      const std::int64_t at = (head * z.Tq + span.q_begin) * z.G;
      const Shared shared{shared_base + at * z.Dp, shared_base + packed_rows * z.Dp + at,
                          shared_base + packed_rows * (z.Dp + 1) + at};
      const Gradients gradients{dq, dk, dv, dout};
      const Inputs inputs{q, k, v, out, lse};
      if (q.dtype == DType::BF16) {
        differentiate<bf16>(scratch, shared, gradients, inputs, z, span, head);
      } else {
        differentiate<float>(scratch, shared, gradients, inputs, z, span, head);
      }
    }
  }
  stream.poll();
}

}  // namespace upcycle
