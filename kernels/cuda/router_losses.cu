#include "kernels/checks/router.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/experts.cuh"

namespace upcycle {
namespace {

using namespace cuda;

// One warp. per_token is E / k; counted may be null.
__global__ void losses(float* expert_scale, double* metrics, const double* stats, const double* counted, int E,
                       double k, double tokens, double per_token, double share, double aux_scale) {
  const int lane = static_cast<int>(threadIdx.x);
  const double* const counts = counted != nullptr ? counted : stats;
  double tokens_counted = tokens;
  if (counted != nullptr) {
    double sum = 0;  // of whole numbers: exact
    for (int e = lane; e < E; e += 32) sum += counted[e];
    tokens_counted = warp_sum(sum) / k;
  }
  double aux = 0, most = 0;
  for (int e = lane; e < E; e += 32) {
    const double f = counts[e] / tokens_counted;
    aux += per_token * f * stats[E + e] / tokens;
    expert_scale[e] = static_cast<float>(aux_scale * per_token * f / tokens);
    most = fmax(most, stats[e]);
    metrics[4 + e] += stats[e];
  }
  aux = warp_sum(aux);
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) most = fmax(most, __shfl_xor_sync(kFullWarp, most, o));
  if (lane != 0) return;
  metrics[0] += share * aux;
  metrics[1] += share * stats[2 * E] / tokens;
  metrics[2] += share * stats[2 * E + 1] / tokens;
  metrics[3] += share * most * per_token / tokens;
}

}  // namespace

void CudaOps::router_losses(Stream& stream, const Tensor& expert_scale, const Tensor& metrics, const Tensor& stats,
                            const Tensor& counted, std::int64_t T, std::int64_t k, double share, double aux_scale) {
  const std::int64_t E = check_router_losses(expert_scale, metrics, stats, counted, T, k);
  check_experts("router_losses", E);
  UPCYCLE_CUDA(gpu::launch({dim3(1), dim3(32), 0, native(stream)}, losses, expert_scale.as<float>(),
                           metrics.as<double>(), stats.as<double>(), counted ? counted.as<double>() : nullptr,
                           static_cast<int>(E), static_cast<double>(k), static_cast<double>(T),
                           static_cast<double>(E) / static_cast<double>(k), share, aux_scale));
}

}  // namespace upcycle
