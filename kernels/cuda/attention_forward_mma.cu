#include <cmath>

#include "core/trace.h"
#include "kernels/cuda/attention_mma.cuh"

// The forward on tensor cores, bf16 with heads of 64 or 128 columns (arXiv 2307.08691): four warps share tiles of keys
// and values, which are loaded by cp.async one tile ahead; each warp has its own query rows and keeps scores in
// registers, where a product's result has the layout of the next product's left factor.
namespace upcycle::cuda {
namespace {

constexpr float kNothingSeen = -1e30f;  // finite, so that differences of two of them are 0

// Over the four lanes that share a row.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, 1));
  return fmaxf(x, __shfl_xor_sync(kFullWarp, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(kFullWarp, x, 1);
  return x + __shfl_xor_sync(kFullWarp, x, 2);
}

template <class Keys, class Z>
__global__ void __launch_bounds__(kWarps * 32)
    attention_forward_mma_kernel(Rows<bf16_t> out, float* __restrict__ lse, Rows<const bf16_t> q, Keys kv,
                                 AttentionShape s) {
  constexpr int kM = Z::kM, kKeyGroups = Z::kKeys / 8, kColumnGroups = Z::kD / 8;
  GPU_DYN_SHARED(bf16_t, smem);
  bf16_t* const q_tile = smem;
  bf16_t* const kv_tiles = q_tile + Z::kRowElements;  // keys, values; and again
  const Part part = kv.part(s);
  const int begin = part.tile * Z::kRows;
  const int rows = min(Z::kRows, part.q_rows * s.G - begin);
  if (rows <= 0) return;
  const int lane = threadIdx.x % 32, warp_row = static_cast<int>(threadIdx.x) / 32 * kM * 16;
  const float log2_scale = s.scale * kLog2e;
  const std::int64_t column = static_cast<std::int64_t>(part.head) * Z::kD;

  float sums[kM][kColumnGroups][4], highest[kM][2], total[kM][2];
  int limit[kM][2];  // the last key that the row sees
  set_zero(sums);
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      highest[m][h] = kNothingSeen;
      total[m][h] = 0.0f;  // of this lane's keys
      limit[m][h] = (begin + warp_row + m * 16 + h * 8 + lane / 4) / s.G + part.shift();
    }
  }

  const int keys_end = (begin + rows - 1) / s.G + part.shift() + 1;
  const int all_see = begin / s.G + part.shift();  // the last key that every row sees
  const auto fetch_keys = [&](int first, int buffer) {
    bf16_t* const to = kv_tiles + buffer * 2 * Z::kKeyElements;
    const int keys = keys_end - first;
    fetch_rows<Z, Z::kKeys>(to, keys, kv.keys_from(part, Z::kD, first));
    fetch_rows<Z, Z::kKeys>(to + Z::kKeyElements, keys, kv.values_from(part, Z::kD, first));
    gpu::cp_async_commit();
  };
  if (keys_end > 0) {
    fetch_tile<Z, Z::kRows>(q_tile, q.data + part.q_begin * q.stride + column * s.G, q.stride, s.G, begin, rows);
    fetch_keys(0, 0);
  }
  for (int first = 0, buffer = 0; first < keys_end; first += Z::kKeys, buffer ^= 1) {
    if (first + Z::kKeys < keys_end) {
      fetch_keys(first + Z::kKeys, buffer ^ 1);
      gpu::cp_async_wait<1>();
    } else {
      gpu::cp_async_wait<0>();
    }
    __syncthreads();
    const bf16_t* const k_tile = kv_tiles + buffer * 2 * Z::kKeyElements;
    const bf16_t* const v_tile = k_tile + Z::kKeyElements;

    float x[kM][kKeyGroups][4];
    multiply_tiles<Z>(x, q_tile + warp_row * Z::kStride, k_tile);
    if (first + Z::kKeys - 1 > all_see) {
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int n = 0; n < kKeyGroups; ++n)
#pragma unroll
          for (int c = 0; c < 4; ++c)
            if (first + n * 8 + lane % 4 * 2 + c % 2 > limit[m][c / 2]) x[m][n][c] = -INFINITY;
    }
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float before = highest[m][h];
        float most = before;
#pragma unroll
        for (int n = 0; n < kKeyGroups; ++n) most = fmaxf(most, fmaxf(x[m][n][2 * h], x[m][n][2 * h + 1]));
        most = quad_max(most);
        highest[m][h] = most;
        const float shrink = exp2f((before - most) * log2_scale), top = most * log2_scale;
        float sum = total[m][h] * shrink;
#pragma unroll
        for (int n = 0; n < kKeyGroups; ++n)
#pragma unroll
          for (int c = 2 * h; c < 2 * h + 2; ++c) {
            x[m][n][c] = exp2f(x[m][n][c] * log2_scale - top);
            sum += x[m][n][c];
          }
        total[m][h] = sum;
#pragma unroll
        for (int n = 0; n < kColumnGroups; ++n) {
          sums[m][n][2 * h] *= shrink;
          sums[m][n][2 * h + 1] *= shrink;
        }
      }

    add_tile<Z>(sums, x, v_tile);
    __syncthreads();  // the buffer just read is filled again next
  }

  float factor[kM][2];
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float sum = quad_sum(total[m][h]);
      // Only a row that sees no key at all has weight sum 0; its output is 0.
      const bool nothing = sum == 0.0f;
      factor[m][h] = nothing ? 0.0f : 1.0f / sum;
      const int r = warp_row + m * 16 + h * 8 + lane / 4, p = begin + r;
      if (!Keys::kLse || r >= rows || lane % 4 != 0) continue;
      const std::int64_t row = part.q_begin + p / s.G, n = static_cast<std::int64_t>(part.head) * s.G + p % s.G;
      lse[n * s.Tq + row] = nothing ? -INFINITY : highest[m][h] * s.scale + logf(sum);
    }
  store_rows<Z>(q_tile + warp_row * Z::kStride, sums, factor, [&](int r) -> bf16_t* {
    const int p = begin + warp_row + r;
    if (warp_row + r >= rows) return nullptr;
    return out.data + (part.q_begin + p / s.G) * out.stride + column * s.G + p % s.G * Z::kD;
  });
}

template <class Z, class Keys>
void launch(Stream& stream, const Tensor& out, const Tensor& lse, const Tensor& q, const Keys& keys, AttentionShape s,
            std::int64_t rows, std::int64_t sequences, std::int64_t K) {
  const TraceRange range("attention_forward_mma");
  const dim3 grid = attention_grid(s, rows, Z::kRows, sequences, K);
  constexpr std::size_t smem = (Z::kRowElements + 4 * Z::kKeyElements) * sizeof(bf16_t);
  UPCYCLE_CUDA(gpu::launch({grid, kWarps * 32, smem, native(stream)}, attention_forward_mma_kernel<Keys, Z>,
                           Rows<bf16_t>(out), lse.as<float>(), Rows<const bf16_t>(q), keys, s));
}

template <class Keys>
bool forward(Stream& stream, const Tensor& out, const Tensor& lse, const Tensor& q, const Keys& keys,
             const AttentionShape& s, std::int64_t rows, std::int64_t sequences, std::int64_t K) {
  if (!s.whole_vectors || !whole_vectors(out)) return false;
  if (s.D == 64) return launch<MmaTile<64, 2, 64>>(stream, out, lse, q, keys, s, rows, sequences, K), true;
  if (s.D == 128) return launch<MmaTile<128, 2, 32>>(stream, out, lse, q, keys, s, rows, sequences, K), true;
  return false;
}

}  // namespace

bool attention_forward_mma(Stream& stream, const Tensor& out, const Tensor& lse, const Tensor& q,
                           const PackedKeys<bf16_t>& keys, const AttentionShape& s, std::int64_t rows,
                           std::int64_t sequences, std::int64_t K) {
  return forward(stream, out, lse, q, keys, s, rows, sequences, K);
}
bool attention_forward_mma(Stream& stream, const Tensor& out, const Tensor& lse, const Tensor& q,
                           const PagedKeys<bf16_t>& keys, const AttentionShape& s, std::int64_t rows,
                           std::int64_t sequences, std::int64_t K) {
  return forward(stream, out, lse, q, keys, s, rows, sequences, K);
}

}  // namespace upcycle::cuda
