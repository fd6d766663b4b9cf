#include <cmath>
#include <type_traits>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/cuda_ops.h"

// FlashAttention (arXiv 2205.14135): a block has a tile of packed query rows and walks over tiles of keys with an
// online softmax; scores never leave the block.
namespace upcycle::cuda {
namespace {

constexpr float kNothingSeen = -1e30f;  // finite, so that differences of two of them are 0

template <class Keys, int kD, class T = typename Keys::T>
__global__ void __launch_bounds__(kAttentionThreads, kD == 64 ? 2 : 1)
    attention_forward_kernel(Rows<T> out, float* __restrict__ lse, Rows<const T> q, Keys kv, AttentionShape s) {
  using Z = TileShape<kD, 64>;
  GPU_DYN_SHARED(float, smem);
  float* const q_tile = smem;
  float* const k_tile = q_tile + Z::kTileFloats;
  float* const v_tile = k_tile + Z::kTileFloats;
  float* const weights = v_tile + Z::kTileFloats;  // (kTile, kTile)
  const Part part = kv.part(s);
  const int begin = part.tile * Z::kTile;
  const int rows = min(Z::kTile, part.q_rows * s.G - begin);
  if (rows <= 0) return;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const float log2_scale = s.scale * kLog2e;
  load_tile<Z>(q_tile, q.data + part.q_begin * q.stride + static_cast<std::int64_t>(part.head) * s.G * s.D, q.stride,
               s.G, begin, rows, s);

  float sums[Z::kM][Z::kGroups][4], highest[Z::kM], total[Z::kM];
  set_zero(sums);
  int limit[Z::kM];  // the last key that the row sees
#pragma unroll
  for (int i = 0; i < Z::kM; ++i) {
    highest[i] = kNothingSeen;
    total[i] = 0.0f;  // of this thread's keys
    limit[i] = (begin + ty * Z::kM + i) / s.G + part.shift();
  }
  const int keys_end = (begin + rows - 1) / s.G + part.shift() + 1;
  for (int first = 0; first < keys_end; first += Z::kTile) {
    const int keys = min(Z::kTile, keys_end - first);
    __syncthreads();  // the tiles before have been used
    load_rows<Z, T>(k_tile, keys, s, kv.keys_from(part, s.D, first));
    load_rows<Z, T>(v_tile, keys, s, kv.values_from(part, s.D, first));
    __syncthreads();
    float x[Z::kM][Z::kM];
    multiply_rows<Z>(x, q_tile, k_tile, s.D);
#pragma unroll
    for (int i = 0; i < Z::kM; ++i) {
      const float before = highest[i];
      float most = before;
#pragma unroll
      for (int j = 0; j < Z::kM; ++j)
        if (first + tx + 16 * j <= limit[i]) most = fmaxf(most, x[i][j]);
      most = row_max(most);
      highest[i] = most;
      const float shrink = exp2f((before - most) * log2_scale);
      total[i] *= shrink;
#pragma unroll
      for (int g = 0; g < Z::kGroups; ++g)
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[i][g][c] *= shrink;
#pragma unroll
      for (int j = 0; j < Z::kM; ++j) {
        const bool seen = first + tx + 16 * j <= limit[i];
        const float w = seen ? exp2f(x[i][j] * log2_scale - most * log2_scale) : 0.0f;
        total[i] += w;
        weights[(ty * Z::kM + i) * Z::kScores + tx + 16 * j] = w;
      }
    }
    __syncwarp();  // only this warp reads its rows of weights
    for (int j = 0; j < keys; ++j) {
      float w[Z::kM];
#pragma unroll
      for (int i = 0; i < Z::kM; ++i) w[i] = weights[(ty * Z::kM + i) * Z::kScores + j];
      add_row<Z>(sums, w, v_tile + j * Z::kStride);
    }
  }

#pragma unroll
  for (int i = 0; i < Z::kM; ++i) {
    total[i] = row_sum(total[i]);
    const int r = ty * Z::kM + i, p = begin + r;
    if (r >= rows) continue;
    const std::int64_t row = part.q_begin + p / s.G, n = static_cast<std::int64_t>(part.head) * s.G + p % s.G;
    // Only a row that sees no key at all has weight sum 0; its output is 0.
    const bool nothing = total[i] == 0.0f;
    store_row<Z>(out.data + row * out.stride + n * s.D, sums[i], nothing ? 0.0f : 1.0f / total[i], s.D);
    if constexpr (Keys::kLse)
      if (tx == 0) lse[n * s.Tq + row] = nothing ? -INFINITY : highest[i] * s.scale + logf(total[i]);
  }
}

template <class Keys, class T = typename Keys::T>
void launch(Stream& stream, const Tensor& out, float* lse, const Tensor& q, const Keys& keys, AttentionShape s,
            std::int64_t rows, std::int64_t sequences, std::int64_t K) {
  with_head_size(s.D, [&]<int kD>() {
    using Z = TileShape<kD, 64>;
    constexpr std::size_t smem = (3 * Z::kTileFloats + Z::kScoreFloats) * sizeof(float);
    const dim3 grid = attention_grid(s, rows, Z::kTile, sequences, K);
    UPCYCLE_CUDA(gpu::launch({grid, kAttentionThreads, smem, native(stream)}, attention_forward_kernel<Keys, kD>,
                             Rows<T>(out), lse, Rows<const T>(q), keys, s));
  });
}

}  // namespace

void attention_forward_tiles(Stream& stream, const Tensor& out, const Tensor& q, const PagedKeys<float>& keys,
                             const AttentionShape& s, std::int64_t rows, std::int64_t sequences) {
  launch(stream, out, nullptr, q, keys, s, rows, sequences, keys.K);
}
void attention_forward_tiles(Stream& stream, const Tensor& out, const Tensor& q, const PagedKeys<__nv_bfloat16>& keys,
                             const AttentionShape& s, std::int64_t rows, std::int64_t sequences) {
  if (attention_forward_mma(stream, out, {}, q, keys, s, rows, sequences, keys.K)) return;
  launch(stream, out, nullptr, q, keys, s, rows, sequences, keys.K);
}

}  // namespace upcycle::cuda

namespace upcycle {

void CudaOps::attention_forward(Stream& stream, Workspace, const Tensor& out, const Tensor& lse, const Tensor& q,
                                const Tensor& k, const Tensor& v, std::int64_t D, const PackedSequences& q_sequences,
                                const PackedSequences& k_sequences, float scale) {
  using namespace cuda;
  const attention::Sizes z = attention::sizes_of(out, lse, q, k, v, D, q_sequences, k_sequences, scale);
  const std::int64_t rows = q_sequences.longest * z.G;
  if (rows == 0 || q_sequences.count == 0) return;
  const AttentionShape s = attention_shape(z, q_sequences, k_sequences, {&q, &k, &v});
  with_type(q, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const PackedKeys<T> keys{Rows<const T>(k), Rows<const T>(v)};
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
      if (attention_forward_mma(stream, out, lse, q, keys, s, rows, q_sequences.count, z.K)) return;
    launch(stream, out, lse.as<float>(), q, keys, s, rows, q_sequences.count, z.K);
  });
}

}  // namespace upcycle
