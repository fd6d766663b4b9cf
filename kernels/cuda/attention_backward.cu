#include <cmath>
#include <type_traits>

#include "kernels/check.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/cuda_ops.h"

// FlashAttention's backward (arXiv 2205.14135, 2307.08691): weights are recomputed from the log-sum-exp. Two kernels
// instead of one with atomic sums, so that every sum has a fixed order: blocks over keys sum dk and dv over the query
// rows, blocks over query rows sum dq over the keys.
namespace upcycle::cuda {
namespace {

// Two tiles of keys and two of query rows have to fit in shared memory.
template <int kD>
using BackwardTile = TileShape<kD, kD == 256 ? 32 : 64>;

// delta fp32 (N, Tq): sum of dout * out, which is the sum over keys of weight * dweight. Eight threads per row and
// head: for bf16 heads of 64 columns, 16 bytes per thread.
constexpr int kDeltaThreads = 8, kDeltaRows = kAttentionThreads / kDeltaThreads;

template <class T>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_delta_kernel(float* __restrict__ delta, Rows<const T> dout, Rows<const T> out, AttentionShape s) {
  const std::int64_t n = blockIdx.y;
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * kDeltaRows + threadIdx.x / kDeltaThreads;
  const int first = t < s.Tq ? static_cast<int>(threadIdx.x) % kDeltaThreads : s.D;  // beyond the last row: no column
  const T* a = dout.data + t * dout.stride + n * s.D;
  const T* b = out.data + t * out.stride + n * s.D;
  float sum = 0.0f;
  constexpr int N = Vector<T>::N;
  if (s.whole_vectors) {
#pragma unroll 2
    for (int d = first * N; d < s.D; d += kDeltaThreads * N) {
      float x[N], y[N];
      load_global(x, a + d);
      load_global(y, b + d);
#pragma unroll
      for (int i = 0; i < N; ++i) sum += x[i] * y[i];
    }
  } else {
#pragma unroll 1
    for (int d = first; d < s.D; d += kDeltaThreads) sum += to_float(a[d]) * to_float(b[d]);
  }
#pragma unroll
  for (int o = kDeltaThreads / 2; o > 0; o >>= 1) sum += __shfl_xor_sync(kFullWarp, sum, o);
  if (t < s.Tq && threadIdx.x % kDeltaThreads == 0) delta[n * s.Tq + t] = sum;
}

// For this thread's rows and keys of a tile: x, scores -> weights; y, dweights -> dscores without the factor 1/sqrt(D).
// Row r of the tile is packed row begin + r, and its key j is key first + j of the sequence.
template <class Z>
__device__ __forceinline__ void weights_and_dscores(float (&x)[Z::kM][Z::kM], float (&y)[Z::kM][Z::kM],
                                                    const float* __restrict__ lse, const float* __restrict__ delta,
                                                    const Part& part, int begin, int rows, int first,
                                                    const AttentionShape& s) {
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < Z::kM; ++i) {
    const int r = ty * Z::kM + i, p = begin + r;
    const bool inside = r < rows;
    const std::int64_t at = (static_cast<std::int64_t>(part.head) * s.G + p % s.G) * s.Tq + part.q_begin + p / s.G;
    const float lse2 = inside ? lse[at] * kLog2e : 0.0f, delta_row = inside ? delta[at] : 0.0f;
    const int limit = p / s.G + part.shift();
#pragma unroll
    for (int j = 0; j < Z::kM; ++j) {
      const bool seen = inside && first + tx + 16 * j <= limit;
      x[i][j] = seen ? exp2f(x[i][j] * (s.scale * kLog2e) - lse2) : 0.0f;
      y[i][j] = seen ? x[i][j] * (y[i][j] - delta_row) : 0.0f;
    }
  }
}

template <class T, int kD>
__global__ void __launch_bounds__(kAttentionThreads, kD == 64 ? 2 : 1)
    attention_dkv_kernel(Rows<T> dk, Rows<T> dv, Rows<const T> dout, Rows<const T> q, Rows<const T> k, Rows<const T> v,
                         const float* __restrict__ lse, const float* __restrict__ delta, AttentionShape s) {
  using Z = BackwardTile<kD>;
  GPU_DYN_SHARED(float, smem);
  float* const k_tile = smem;
  float* const v_tile = k_tile + Z::kTileFloats;
  float* const q_tile = v_tile + Z::kTileFloats;
  float* const dout_tile = q_tile + Z::kTileFloats;
  float* const weights = dout_tile + Z::kTileFloats;  // (kTile rows, kTile keys)
  float* const dscores = weights + Z::kScoreFloats;
  const Part part = part_of(s, false);
  const int first = part.tile * Z::kTile;
  const int keys = min(Z::kTile, part.k_rows - first);
  if (keys <= 0) return;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const std::int64_t at = part.k_begin + first, column = static_cast<std::int64_t>(part.head) * s.D;
  load_tile<Z>(k_tile, k.data + at * k.stride + column, k.stride, 1, 0, keys, s);
  load_tile<Z>(v_tile, v.data + at * v.stride + column, v.stride, 1, 0, keys, s);
  float dk_sums[Z::kM][Z::kGroups][4], dv_sums[Z::kM][Z::kGroups][4];
  set_zero(dk_sums);
  set_zero(dv_sums);

  // Skip the rows before the first that sees this tile.
  for (int begin = max(0, first - part.shift()) * s.G; begin < part.q_rows * s.G; begin += Z::kTile) {
    const int rows = min(Z::kTile, part.q_rows * s.G - begin);
    __syncthreads();  // the tiles before have been used
    load_tile<Z>(q_tile, q.data + part.q_begin * q.stride + column * s.G, q.stride, s.G, begin, rows, s);
    load_tile<Z>(dout_tile, dout.data + part.q_begin * dout.stride + column * s.G, dout.stride, s.G, begin, rows, s);
    __syncthreads();
    float x[Z::kM][Z::kM], y[Z::kM][Z::kM];
    multiply_rows<Z>(x, q_tile, k_tile, s.D);
    multiply_rows<Z>(y, dout_tile, v_tile, s.D);
    weights_and_dscores<Z>(x, y, lse, delta, part, begin, rows, first, s);
#pragma unroll
    for (int i = 0; i < Z::kM; ++i)
#pragma unroll
      for (int j = 0; j < Z::kM; ++j) {
        weights[(ty * Z::kM + i) * Z::kScores + tx + 16 * j] = x[i][j];
        dscores[(ty * Z::kM + i) * Z::kScores + tx + 16 * j] = y[i][j];
      }
    __syncthreads();  // from here on a thread's rows are keys
    for (int r = 0; r < rows; ++r) {
      float w[Z::kM], d[Z::kM];
#pragma unroll
      for (int i = 0; i < Z::kM; ++i) {
        w[i] = weights[r * Z::kScores + ty * Z::kM + i];
        d[i] = dscores[r * Z::kScores + ty * Z::kM + i];
      }
      add_row<Z>(dv_sums, w, dout_tile + r * Z::kStride);
      add_row<Z>(dk_sums, d, q_tile + r * Z::kStride);
    }
  }

#pragma unroll
  for (int i = 0; i < Z::kM; ++i) {
    const int j = ty * Z::kM + i;
    if (j >= keys) continue;
    store_row<Z>(dk.data + (at + j) * dk.stride + column, dk_sums[i], s.scale, s.D);
    store_row<Z>(dv.data + (at + j) * dv.stride + column, dv_sums[i], 1.0f, s.D);
  }
}

template <class T, int kD>
__global__ void __launch_bounds__(kAttentionThreads, kD == 64 ? 2 : 1)
    attention_dq_kernel(Rows<T> dq, Rows<const T> dout, Rows<const T> q, Rows<const T> k, Rows<const T> v,
                        const float* __restrict__ lse, const float* __restrict__ delta, AttentionShape s) {
  using Z = BackwardTile<kD>;
  GPU_DYN_SHARED(float, smem);
  float* const q_tile = smem;
  float* const dout_tile = q_tile + Z::kTileFloats;
  float* const k_tile = dout_tile + Z::kTileFloats;
  float* const v_tile = k_tile + Z::kTileFloats;
  float* const dscores = v_tile + Z::kTileFloats;  // (kTile rows, kTile keys)
  const Part part = part_of(s, true);
  const int begin = part.tile * Z::kTile;
  const int rows = min(Z::kTile, part.q_rows * s.G - begin);
  if (rows <= 0) return;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const std::int64_t column = static_cast<std::int64_t>(part.head) * s.D;
  load_tile<Z>(q_tile, q.data + part.q_begin * q.stride + column * s.G, q.stride, s.G, begin, rows, s);
  load_tile<Z>(dout_tile, dout.data + part.q_begin * dout.stride + column * s.G, dout.stride, s.G, begin, rows, s);
  float sums[Z::kM][Z::kGroups][4];
  set_zero(sums);

  const int keys_end = (begin + rows - 1) / s.G + part.shift() + 1;
  for (int first = 0; first < keys_end; first += Z::kTile) {
    const int keys = min(Z::kTile, keys_end - first);
    const std::int64_t at = part.k_begin + first;
    __syncthreads();  // the tiles before have been used
    load_tile<Z>(k_tile, k.data + at * k.stride + column, k.stride, 1, 0, keys, s);
    load_tile<Z>(v_tile, v.data + at * v.stride + column, v.stride, 1, 0, keys, s);
    __syncthreads();
    float x[Z::kM][Z::kM], y[Z::kM][Z::kM];
    multiply_rows<Z>(x, q_tile, k_tile, s.D);
    multiply_rows<Z>(y, dout_tile, v_tile, s.D);
    weights_and_dscores<Z>(x, y, lse, delta, part, begin, rows, first, s);
#pragma unroll
    for (int i = 0; i < Z::kM; ++i)
#pragma unroll
      for (int j = 0; j < Z::kM; ++j) dscores[(ty * Z::kM + i) * Z::kScores + tx + 16 * j] = y[i][j];
    __syncwarp();  // only this warp reads its rows of dscores
    for (int j = 0; j < keys; ++j) {
      float d[Z::kM];
#pragma unroll
      for (int i = 0; i < Z::kM; ++i) d[i] = dscores[(ty * Z::kM + i) * Z::kScores + j];
      add_row<Z>(sums, d, k_tile + j * Z::kStride);
    }
  }

#pragma unroll
  for (int i = 0; i < Z::kM; ++i) {
    const int r = ty * Z::kM + i, p = begin + r;
    if (r >= rows) continue;
    store_row<Z>(dq.data + (part.q_begin + p / s.G) * dq.stride + (column * s.G + p % s.G * s.D), sums[i], s.scale,
                 s.D);
  }
}

}  // namespace

}  // namespace upcycle::cuda

namespace upcycle {

void CudaOps::attention_backward(Stream& stream, Workspace workspace, const Tensor& dq, const Tensor& dk,
                                 const Tensor& dv, const Tensor& dout, const Tensor& q, const Tensor& k,
                                 const Tensor& v, const Tensor& out, const Tensor& lse, std::int64_t D,
                                 const PackedSequences& q_sequences, const PackedSequences& k_sequences, float scale) {
  using namespace cuda;
  const attention::Sizes z = attention::sizes_of(out, lse, q, k, v, D, q_sequences, k_sequences, scale);
  attention::check_gradients(z, dq, dk, dv, dout, q);
  const std::size_t needed = scratch::attention_delta(z.Tq, z.N);
  check_workspace("attention_backward", workspace, needed);
  if (q_sequences.count == 0) return;
  float* const delta = static_cast<float*>(workspace.data);
  const float* const lse_data = lse.as<float>();
  AttentionShape s = attention_shape(z, q_sequences, k_sequences, {&q, &k, &v, &dout, &out});
  const std::int64_t q_rows = q_sequences.longest * z.G, k_rows = k_sequences.longest;
  with_type(q, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    using In = Rows<const T>;
    if (z.Tq > 0 && z.N > 0) {
      dim3 grid = attention_grid(s, z.Tq, kDeltaRows, 1, z.N);
      UPCYCLE_CUDA(gpu::launch({grid, kAttentionThreads, 0, native(stream)}, attention_delta_kernel<T>, delta, In(dout),
                               In(out), s));
    }
    if (attention_backward_mma(stream, dq, dk, dv, dout, q, k, v, lse_data, delta, s, q_rows, k_rows, q_sequences.count,
                               z.K))
      return;
    with_head_size(D, [&]<int kD>() {
      using Z = BackwardTile<kD>;
      constexpr std::size_t tiles = 4 * Z::kTileFloats, scores = Z::kScoreFloats;
      if (k_rows > 0) {
        const dim3 grid = attention_grid(s, k_rows, Z::kTile, k_sequences.count, z.K);
        UPCYCLE_CUDA(gpu::launch({grid, kAttentionThreads, (tiles + 2 * scores) * sizeof(float), native(stream)},
                                 attention_dkv_kernel<T, kD>, Rows<T>(dk), Rows<T>(dv), In(dout), In(q), In(k), In(v),
                                 lse_data, delta, s));
      }
      if (q_rows > 0) {
        const dim3 grid = attention_grid(s, q_rows, Z::kTile, q_sequences.count, z.K);
        UPCYCLE_CUDA(gpu::launch({grid, kAttentionThreads, (tiles + scores) * sizeof(float), native(stream)},
                                 attention_dq_kernel<T, kD>, Rows<T>(dq), In(dout), In(q), In(k), In(v), lse_data,
                                 delta, s));
      }
    });
  });
}

}  // namespace upcycle
