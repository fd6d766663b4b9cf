#include "kernels/checks/linear_xent.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/vector.cuh"

namespace upcycle {
namespace {

using namespace cuda;

constexpr unsigned kTokenThreads = 128;
constexpr int kSumThreads = 512;

// One thread per token, in fp64.
__global__ void __launch_bounds__(kTokenThreads)
    combine(float* nll, float* lse, const float* stats, const int* targets, std::int64_t ranks, std::int64_t T) {
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * kTokenThreads + threadIdx.x;
  if (t >= T) return;
  double highest = -INFINITY, sum = 0, target_logit = 0;
  for (std::int64_t r = 0; r < ranks; ++r) highest = fmax(highest, static_cast<double>(stats[3 * (r * T + t)]));
  for (std::int64_t r = 0; r < ranks; ++r) {
    const float* const part = stats + 3 * (r * T + t);
    if (part[0] != -INFINITY)  // a shard with only padding has no maximum
      sum += static_cast<double>(part[1]) * exp(static_cast<double>(part[0]) - highest);
    target_logit += static_cast<double>(part[2]);
  }
  const double log_sum = highest + log(sum);
  lse[t] = static_cast<float>(log_sum);
  nll[t] = targets[t] < 0 ? 0.0f : static_cast<float>(log_sum - target_logit);
}

// One block, so that the order is fixed; T numbers are few.
__global__ void __launch_bounds__(kSumThreads) add_sum(double* loss_sum, const float* nll, std::int64_t T) {
  double sum = 0;
  for (std::int64_t t = threadIdx.x; t < T; t += kSumThreads) sum += static_cast<double>(nll[t]);
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) *loss_sum += sum;
}

}  // namespace

void CudaOps::xent_combine(Stream& stream, const Tensor& nll, const Tensor& lse, const Tensor& loss_sum,
                           const Tensor& stats, const Tensor& targets) {
  const auto [ranks, T] = check_xent_combine(nll, lse, loss_sum, stats, targets);
  if (T == 0) return;
  const auto blocks = static_cast<unsigned>((T + kTokenThreads - 1) / kTokenThreads);
  UPCYCLE_CUDA(gpu::launch({dim3(blocks), dim3(kTokenThreads), 0, native(stream)}, combine, nll.as<float>(),
                           lse.as<float>(), stats.as<float>(), targets.as<std::int32_t>(), ranks, T));
  UPCYCLE_CUDA(
      gpu::launch({dim3(1), dim3(kSumThreads), 0, native(stream)}, add_sum, loss_sum.as<double>(), nll.as<float>(), T));
}

}  // namespace upcycle
