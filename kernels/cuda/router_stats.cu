#include <algorithm>

#include "kernels/check.h"
#include "kernels/checks/router.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/experts.cuh"

namespace upcycle {
namespace {

using namespace cuda;

// The number of blocks depends only on T: each sums its tokens into a column of the workspace, (2E + 2, blocks) in
// fp64, whose rows are then summed in order.
constexpr std::int64_t kTokens = 64;  // per block, at least
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

__global__ void __launch_bounds__(kThreads)
    stats_of_blocks(double* part, const float* probs, const int* experts, const float* lse, std::int64_t T,
                    std::int64_t tokens, int E, int k) {
  GPU_DYN_SHARED(double, column);  // (kWarps, E) sums of probabilities, then i32 (E) assignments
  int* const assigned = reinterpret_cast<int*>(column + kWarps * E);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t begin = tokens * blockIdx.x, end = min(begin + tokens, T);
  for (int i = static_cast<int>(threadIdx.x); i < kWarps * E; i += kThreads) column[i] = 0;
  for (int e = static_cast<int>(threadIdx.x); e < E; e += kThreads) assigned[e] = 0;
  __syncthreads();

  for (std::int64_t i = begin * k + threadIdx.x; i < end * k; i += kThreads) {
    const unsigned e = static_cast<unsigned>(experts[i]);
    if (e < static_cast<unsigned>(E)) atomicAdd(&assigned[e], 1);  // integers: the order does not matter
  }
  double* const mine = column + warp * E;
  double squares = 0, entropy = 0;
  for (std::int64_t t = begin + warp; t < end; t += kWarps) {
    for (int e = lane; e < E; e += 32) {
      const float p = probs[t * E + e];
      mine[e] += static_cast<double>(p);
      if (p != 0) entropy -= static_cast<double>(p) * static_cast<double>(logf(p));
    }
    if (lane == 0) squares += static_cast<double>(lse[t]) * static_cast<double>(lse[t]);
  }
  squares = block_sum<kThreads>(squares);
  entropy = block_sum<kThreads>(entropy);

  const auto put = [&](std::int64_t row, double x) { part[row * gridDim.x + blockIdx.x] = x; };
  for (int e = static_cast<int>(threadIdx.x); e < E; e += kThreads) {
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += column[w * E + e];
    put(e, assigned[e]);
    put(E + e, sum);
  }
  if (threadIdx.x == 0) {
    put(2 * E, squares);
    put(2 * E + 1, entropy);
  }
}

// One warp per statistic.
__global__ void __launch_bounds__(kThreads) add_blocks(double* stats, const double* part, int numbers, int blocks) {
  const int number = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (number >= numbers) return;
  double sum = 0;
  for (int b = lane; b < blocks; b += 32) sum += part[static_cast<std::int64_t>(number) * blocks + b];
  sum = warp_sum(sum);
  if (lane == 0) stats[number] = sum;
}

}  // namespace

void CudaOps::router_stats(Stream& stream, Workspace workspace, const Tensor& stats, const Tensor& probs,
                           const Tensor& experts, const Tensor& lse) {
  const auto [T, E, k] = check_router_stats(stats, probs, experts, lse);
  check_experts("router_stats", E);
  const std::int64_t numbers = 2 * E + 2;
  const std::int64_t tokens = std::max(kTokens, (T + scratch::kRouterStatsBlocks - 1) / scratch::kRouterStatsBlocks);
  const std::int64_t blocks = std::max<std::int64_t>(1, (T + tokens - 1) / tokens);
  const std::size_t needed = static_cast<std::size_t>(blocks * numbers) * sizeof(double);
  check_workspace("router_stats", workspace, needed);
  double* const part = static_cast<double*>(workspace.data);
  const std::size_t shared = static_cast<std::size_t>(E) * (kWarps * sizeof(double) + sizeof(int));
  UPCYCLE_CUDA(gpu::launch({dim3(static_cast<unsigned>(blocks)), dim3(kThreads), shared, native(stream)},
                           stats_of_blocks, part, probs.as<float>(), experts.as<std::int32_t>(), lse.as<float>(), T,
                           tokens, static_cast<int>(E), static_cast<int>(k)));
  UPCYCLE_CUDA(
      gpu::launch({dim3(static_cast<unsigned>((numbers + kWarps - 1) / kWarps)), dim3(kThreads), 0, native(stream)},
                  add_blocks, stats.as<double>(), part, static_cast<int>(numbers), static_cast<int>(blocks)));
}

}  // namespace upcycle
