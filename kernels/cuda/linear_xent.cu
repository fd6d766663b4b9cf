#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/check.h"
#include "kernels/checks/linear_xent.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/vector.cuh"

// The output projection with cross-entropy: blocks of logits, (tokens, vocabulary rows), are computed by matmul into
// the workspace and consumed at once. The outer loop is over vocabulary blocks, so that a block of the weight and of
// its gradient stays in L2 cache while the inner loop visits all token blocks.
namespace upcycle::cuda {
namespace {

using scratch::kXentCut;

constexpr int kThreads = 128;  // per thread block, which has one row of logits

template <int Threads>
__device__ __forceinline__ float block_max(float v) {
  GPU_SHARED(float, part, [Threads / 32]);
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, o));
  __syncthreads();  // the results of a previous call have been read
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = v;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < Threads / 32; ++i) v = fmaxf(v, part[i]);
  return v;
}

// f(column, value) over this thread's columns of a row that begins at a multiple of 16 bytes.
template <class F>
__device__ __forceinline__ void for_row(const float* row, int columns, const F& f) {
  const int whole = columns / 4 * 4;
  for (int j = static_cast<int>(threadIdx.x) * 4; j < whole; j += kThreads * 4) {
    float x[4];
    Vector<float>::load(x, row + j);
#pragma unroll
    for (int i = 0; i < 4; ++i) f(j + i, x[i]);
  }
  const int j = whole + static_cast<int>(threadIdx.x);
  if (j < columns) f(j, row[j]);
}

// One block per row. Adds its logits to the row's running maximum and sum (arXiv 1805.02867); `first`: initializes
// them.
__global__ void __launch_bounds__(kThreads)
    add_block_kernel(float* __restrict__ stats, const float* __restrict__ logits, std::int64_t stride, int columns,
                     const int* __restrict__ targets, std::int64_t vocab_first, bool first) {
  const std::int64_t t = blockIdx.x;
  const float* row = logits + t * stride;
  float* s = stats + 3 * t;
  const float before = first ? -INFINITY : s[0];
  float highest = before;
  for_row(row, columns, [&](int, float x) { highest = fmaxf(highest, x); });
  highest = block_max<kThreads>(highest);
  float sum = 0;
  for_row(row, columns, [&](int, float x) { sum += expf(x - highest); });
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x != 0) return;
  const std::int64_t target = targets[t] - vocab_first;
  const bool here = targets[t] >= 0 && target >= 0 && target < columns;
  s[0] = highest;
  s[1] = first ? sum : s[1] * expf(before - highest) + sum;
  if (here || first) s[2] = here ? row[target] : 0.0f;
}

// The statistics of a rank that holds only padding: the maximum over no logits.
__global__ void empty_stats_kernel(float* __restrict__ stats, std::int64_t T) {
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (t >= T) return;
  stats[3 * t] = -INFINITY;
  stats[3 * t + 1] = stats[3 * t + 2] = 0;
}

// One block per row: dlogits = (softmax - onehot) * scale; in fp32 it may alias the logits.
template <class T>
__global__ void __launch_bounds__(kThreads)
    dlogits_kernel(T* dlogits, const float* logits, std::int64_t stride, int columns, const int* __restrict__ targets,
                   std::int64_t vocab_first, const float* __restrict__ lse, float scale) {
  const std::int64_t t = blockIdx.x;
  const bool counted = targets[t] >= 0;
  const std::int64_t target = targets[t] - vocab_first;
  const float lse_t = counted ? lse[t] : 0.0f;  // unused on other rows
  const auto gradient = [&](int j, float x) {
    return counted ? (expf(x - lse_t) - (j == target ? 1.0f : 0.0f)) * scale : 0.0f;
  };
  const float* row = logits + t * stride;
  T* out = dlogits + t * stride;
  constexpr int N = Vector<T>::N;
  const int whole = columns / N * N;
  for (int j = static_cast<int>(threadIdx.x) * N; j < whole; j += kThreads * N) {
    float x[N];
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      float part[4];
      load_global(part, row + j + i);
#pragma unroll
      for (int q = 0; q < 4; ++q) x[i + q] = gradient(j + i + q, part[q]);
    }
    Vector<T>::store(out + j, x);
  }
  const int j = whole + static_cast<int>(threadIdx.x);
  if (j < columns) out[j] = from_float<T>(gradient(j, row[j]));
}

// Row stride of a ragged block of logits, whose rows still begin at whole vectors.
Tensor block_of(void* data, DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
  Tensor t(data, dtype, {rows, columns});
  t.row_stride = stride;
  return t;
}

// Calls f(first vocabulary row, columns, first token, rows, row stride of the logits), vocabulary blocks in the outer
// loop.
template <class F>
void for_blocks(std::int64_t T, std::int64_t vocab_valid, const F& f) {
  const std::int64_t vocab_block = block_size(vocab_valid, kXentCut.vocab, kXentCut.unit),
                     token_block = block_size(T, kXentCut.tokens, kXentCut.unit);
  for (std::int64_t v = 0; v < vocab_valid; v += vocab_block)
    for (std::int64_t t = 0; t < T; t += token_block)
      f(v, std::min(vocab_block, vocab_valid - v), t, std::min(token_block, T - t), vocab_block);
}

}  // namespace

}  // namespace upcycle::cuda

namespace upcycle {
using namespace cuda;

void CudaOps::linear_xent_stats(Stream& stream, Workspace workspace, const Tensor& stats, const Tensor& x,
                                const Tensor& weight, const Tensor& targets, std::int64_t vocab_begin,
                                std::int64_t vocab_valid) {
  const auto [T, V, H] = check_linear_xent_stats(stats, x, weight, targets, vocab_valid);
  const XentScratch parts = place_xent_scratch(kXentCut, workspace.data, T, V, H, x.dtype);
  check_workspace("linear_xent_stats", workspace, parts.bytes);
  if (T == 0) return;
  if (vocab_valid == 0) {
    UPCYCLE_CUDA(gpu::launch({static_cast<unsigned>((T + 255) / 256), 256, 0, native(stream)}, empty_stats_kernel,
                             stats.as<float>(), T));
    return;
  }
  for_blocks(T, vocab_valid,
             [&](std::int64_t v, std::int64_t columns, std::int64_t t, std::int64_t rows, std::int64_t stride) {
               matmul(stream, parts.gemm, MatmulKind::NT, block_of(parts.logits, DType::F32, rows, columns, stride),
                      x.slice_rows(t, t + rows), weight.slice_rows(v, v + columns), Store::Overwrite);
               UPCYCLE_CUDA(gpu::launch({static_cast<unsigned>(rows), kThreads, 0, native(stream)}, add_block_kernel,
                                        stats.as<float>() + 3 * t, parts.logits, stride, static_cast<int>(columns),
                                        targets.as<std::int32_t>() + t, vocab_begin + v, v == 0));
             });
}

void CudaOps::linear_xent_backward(Stream& stream, Workspace workspace, const Tensor& dx, const Tensor& dweight,
                                   const Tensor& x, const Tensor& weight, const Tensor& targets, const Tensor& lse,
                                   std::int64_t vocab_begin, std::int64_t vocab_valid, float scale) {
  const auto [T, V, H] = check_linear_xent_backward(dx, dweight, x, weight, targets, lse, vocab_valid);
  const XentScratch parts = place_xent_scratch(kXentCut, workspace.data, T, V, H, x.dtype);
  check_workspace("linear_xent_backward", workspace, parts.bytes);
  if (T == 0) return;
  if (vocab_valid == 0) return fill(stream, dx, 0);
  // Sums over vocabulary blocks stay in fp32 and are rounded once.
  Tensor sum = dx;
  if (dx.dtype != DType::F32) sum = Tensor(parts.dx, DType::F32, {T, H});
  for_blocks(
      T, vocab_valid,
      [&](std::int64_t v, std::int64_t columns, std::int64_t t, std::int64_t rows, std::int64_t stride) {
        const Tensor w = weight.slice_rows(v, v + columns), x_rows = x.slice_rows(t, t + rows);
        const Tensor logits = block_of(parts.logits, DType::F32, rows, columns, stride);
        const Tensor dlogits = block_of(parts.dlogits, x.dtype, rows, columns, stride);
        matmul(stream, parts.gemm, MatmulKind::NT, logits, x_rows, w, Store::Overwrite);
        with_type(x, [&](auto* type) {
          using Type = std::remove_pointer_t<decltype(type)>;
          UPCYCLE_CUDA(gpu::launch({static_cast<unsigned>(rows), kThreads, 0, native(stream)}, dlogits_kernel<Type>,
                                   static_cast<Type*>(parts.dlogits), parts.logits, stride, static_cast<int>(columns),
                                   targets.as<std::int32_t>() + t, vocab_begin + v, lse.as<float>() + t, scale));
        });
        matmul(stream, parts.gemm, MatmulKind::TN, dweight.slice_rows(v, v + columns), dlogits, x_rows,
               Store::Accumulate);
        matmul(stream, parts.gemm, MatmulKind::NN, sum.slice_rows(t, t + rows), dlogits, w,
               v == 0 ? Store::Overwrite : Store::Accumulate);
      });
  if (dx.dtype != DType::F32) convert(stream, dx, sum);
}

}  // namespace upcycle
