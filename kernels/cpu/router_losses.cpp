#include <algorithm>
#include <numeric>

#include "kernels/checks/router.h"
#include "kernels/cpu/cpu_ops.h"

namespace upcycle {

void CpuOps::router_losses(Stream&, const Tensor& expert_scale, const Tensor& metrics, const Tensor& stats,
                           const Tensor& counted, std::int64_t T, std::int64_t k, double share, double aux_scale) {
  const std::int64_t E = check_router_losses(expert_scale, metrics, stats, counted, T, k);
  const double *assigned = stats.as<double>(), *probability = assigned + E;
  const double tokens = static_cast<double>(T), per_token = static_cast<double>(E) / static_cast<double>(k);
  const double* const counts = counted ? counted.as<double>() : assigned;
  // Whole numbers: the sum is exact.
  const double tokens_counted = counted ? std::accumulate(counts, counts + E, 0.0) / static_cast<double>(k) : tokens;
  float* scale = expert_scale.as<float>();
  double* sums = metrics.as<double>();
  double aux = 0;
  for (std::int64_t e = 0; e < E; ++e) {
    const double f = counts[e] / tokens_counted;
    aux += per_token * f * probability[e] / tokens;
    scale[e] = static_cast<float>(aux_scale * per_token * f / tokens);
    sums[4 + e] += assigned[e];
  }
  sums[0] += share * aux;
  sums[1] += share * stats.as<double>()[2 * E] / tokens;
  sums[2] += share * stats.as<double>()[2 * E + 1] / tokens;
  sums[3] += share * *std::max_element(assigned, assigned + E) * per_token / tokens;
}

}  // namespace upcycle
