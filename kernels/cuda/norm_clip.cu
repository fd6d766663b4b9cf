#include "kernels/check.h"
#include "kernels/checks/optimizer.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"

namespace upcycle {
namespace {

using namespace cuda;

// Block size, from the tensor's size only, never its address, so that a shard gives the same bits at any address. At
// most scratch::kSumSquaresBlocks blocks, each of at least kLeastBlock elements.
constexpr std::int64_t kLeastBlock = 4096;
constexpr int kThreads = 256;
constexpr int kGroup = 4;

// Thread i of a block adds the groups i, i + kThreads, ... of four elements, of which the block's last may be shorter;
// Aligned only affects how they are read.
template <bool Aligned>
__global__ void sum_of_blocks(double* part, const float* x, std::int64_t n, std::int64_t per_block) {
  const std::int64_t begin = blockIdx.x * per_block, end = min(begin + per_block, n);
  double sum = 0;
  std::int64_t i = begin + threadIdx.x * kGroup;
#pragma unroll 4
  for (; i + kGroup <= end; i += kThreads * kGroup) {
    float f[kGroup];
    if constexpr (Aligned) {
      Access<float, kGroup>::load(f, x + i);
    } else {
#pragma unroll
      for (int j = 0; j < kGroup; ++j) f[j] = x[i + j];
    }
#pragma unroll
    for (int j = 0; j < kGroup; ++j) sum = fma(static_cast<double>(f[j]), static_cast<double>(f[j]), sum);
  }
#pragma unroll 1
  for (; i < end; ++i) sum = fma(static_cast<double>(x[i]), static_cast<double>(x[i]), sum);
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

__global__ void add_parts(double* out, const double* part, std::int64_t blocks) {
  double sum = 0;
  for (std::int64_t b = threadIdx.x; b < blocks; b += kThreads) sum += part[b];
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) *out += sum;
}

// A NaN norm gives a NaN scale: clipping must not hide it from the step, which stops on it.
__global__ void clip_scale_kernel(float* scale, const double* sum_squares, float max_norm) {
  const double ratio = static_cast<double>(max_norm) / (sqrt(*sum_squares) + 1e-6);
  *scale = max_norm <= 0 || ratio >= 1 ? 1.0f : static_cast<float>(ratio);
}

}  // namespace

void CudaOps::sum_squares(Stream& stream, Workspace workspace, const Tensor& out, const Tensor& x) {
  const std::int64_t n = check_sum_squares(out, x);
  const std::int64_t per_block =
      std::max(kLeastBlock, ((n + scratch::kSumSquaresBlocks - 1) / scratch::kSumSquaresBlocks + 15) / 16 * 16);
  const std::int64_t blocks = (n + per_block - 1) / per_block;
  const std::size_t needed = static_cast<std::size_t>(blocks) * sizeof(double);
  check_workspace("sum_squares", workspace, needed);
  if (n == 0) return;
  double* const part = static_cast<double*>(workspace.data);
  const bool aligned = reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
  UPCYCLE_CUDA(gpu::launch({dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, native(stream)},
                           aligned ? sum_of_blocks<true> : sum_of_blocks<false>, part, x.as<float>(), n, per_block));
  UPCYCLE_CUDA(gpu::launch({dim3(1), dim3(kThreads), 0, native(stream)}, add_parts, out.as<double>(), part, blocks));
}

void CudaOps::clip_scale(Stream& stream, const Tensor& scale, const Tensor& sum_squares, float max_norm) {
  check_clip_scale(scale, sum_squares);
  UPCYCLE_CUDA(gpu::launch({dim3(1), dim3(1), 0, native(stream)}, clip_scale_kernel, scale.as<float>(),
                           sum_squares.as<double>(), max_norm));
}

}  // namespace upcycle
