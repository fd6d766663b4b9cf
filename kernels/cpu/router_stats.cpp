#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/checks/router.h"
#include "kernels/cpu/cpu_ops.h"

namespace upcycle {
namespace {

constexpr std::int64_t kParts = 64;    // of the tokens; fixed, so that sums do not depend on the number of threads
constexpr std::int64_t kColumns = 16;  // experts whose sums one thread keeps in registers
constexpr std::int64_t kParallelFrom = 4096;

double entropy(const float* probs, std::int64_t E) {
  double sum = 0;
  for (std::int64_t e = 0; e < E; ++e)
    if (probs[e] != 0) sum -= static_cast<double>(probs[e]) * static_cast<double>(std::log(probs[e]));
  return sum;
}

void sum_columns(double* sums, const float* probs, std::int64_t T, std::int64_t E, std::int64_t first) {
  const std::int64_t width = std::min(kColumns, E - first);
  double part[kColumns] = {};
  for (std::int64_t t = 0; t < T; ++t)
    for (std::int64_t c = 0; c < width; ++c) part[c] += static_cast<double>(probs[t * E + first + c]);
  for (std::int64_t c = 0; c < width; ++c) sums[first + c] = part[c];
}

}  // namespace

std::size_t CpuOps::router_stats_workspace(const OpLimits&) { return 0; }

void CpuOps::router_stats(Stream&, Workspace, const Tensor& stats, const Tensor& probs, const Tensor& experts,
                          const Tensor& lse) {
  const RouterSizes sizes = check_router_stats(stats, probs, experts, lse);
  const std::int64_t T = sizes.T, E = sizes.E, k = sizes.k;  // clang takes no bindings into parallel regions
  double* out = stats.as<double>();
  const float *p = probs.as<float>(), *l = lse.as<float>();
  const std::int32_t* chosen = experts.as<std::int32_t>();
  check_indices("router_stats: experts", chosen, T * k, 0, E);

  std::fill(out, out + E, 0.0);
  for (std::int64_t i = 0; i < T * k; ++i) out[chosen[i]] += 1;

  double square_parts[kParts] = {}, entropy_parts[kParts] = {};
#pragma omp parallel if (T * E >= kParallelFrom)
  {
#pragma omp for schedule(static) nowait
    for (std::int64_t first = 0; first < E; first += kColumns) sum_columns(out + E, p, T, E, first);
#pragma omp for schedule(static)
    for (std::int64_t part = 0; part < kParts; ++part) {
      double squares = 0, entropies = 0;
      for (std::int64_t t = T * part / kParts; t < T * (part + 1) / kParts; ++t) {
        squares += static_cast<double>(l[t]) * static_cast<double>(l[t]);
        entropies += entropy(p + t * E, E);
      }
      square_parts[part] = squares;
      entropy_parts[part] = entropies;
    }
  }
  out[2 * E] = out[2 * E + 1] = 0;
  for (std::int64_t part = 0; part < kParts; ++part) {
    out[2 * E] += square_parts[part];
    out[2 * E + 1] += entropy_parts[part];
  }
}

}  // namespace upcycle
