#include <cmath>

#include "kernels/check.h"
#include "kernels/checks/sigmoid_router.h"
#include "kernels/cpu/cpu_ops.h"

// With s = sigmoid(x), ds/dx = s (1 - s), and 1 - s = sigmoid(-x) keeps its digits where s is nearly 1. A share s / sum
// then has the gradient  share * sigmoid(-x) * (g - <share, g>).
namespace upcycle {
namespace {

constexpr std::int64_t kParallelFrom = 4096;

float complement(float x) { return 1.0f / (1.0f + std::exp(x)); }  // sigmoid(-x)

// <p, g>, where p sums to 1, computed as in router_backward.cpp: equal gradients have no gradient at all.
double mean(const float* p, const float* g, std::int64_t n) {
  const double first = static_cast<double>(g[0]);
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(p[i]) * (static_cast<double>(g[i]) - first);
  return first + sum;
}

float through_share(float p, float g, double mean, float x) {
  return static_cast<float>(static_cast<double>(p) * static_cast<double>(complement(x)) *
                            (static_cast<double>(g) - mean));
}

}  // namespace

void CpuOps::sigmoid_router_backward(Stream&, const Tensor& dlogits, const Tensor& dweights, const Tensor& probs,
                                     const Tensor& experts, const Tensor& weights, const Tensor& lse,
                                     const Tensor& logits, const Tensor& expert_scale, float z_scale,
                                     RouterSoftmax order) {
  const RouterSizes sizes =
      check_sigmoid_router_backward(dlogits, dweights, probs, experts, weights, lse, logits, expert_scale);
  const std::int64_t T = sizes.T, E = sizes.E, k = sizes.k;  // clang takes no bindings into parallel regions
  const std::int32_t* all_chosen = experts.as<std::int32_t>();
  check_indices("sigmoid_router_backward: experts", all_chosen, T * k, 0, E);
  const float* scale = expert_scale.as<float>();
  float* all_out = dlogits.as<float>();
  const float *all_dw = dweights.as<float>(), *all_p = probs.as<float>(), *all_w = weights.as<float>(),
              *all_lse = lse.as<float>(), *all_x = logits.as<float>();
#pragma omp parallel for schedule(static) if (T * E >= kParallelFrom)
  for (std::int64_t t = 0; t < T; ++t) {
    float* out = all_out + t * E;
    const float *dw = all_dw + t * k, *p = all_p + t * E, *w = all_w + t * k, *x = all_x + t * E;
    const std::int32_t* chosen = all_chosen + t * k;
    const double all = mean(p, scale, E);
    for (std::int64_t e = 0; e < E; ++e) out[e] = through_share(p[e], scale[e], all, x[e]);
    // Weights that are the scores themselves are their own shares, of nothing else.
    const double of_chosen = order == RouterSoftmax::TopkThenSoftmax ? mean(w, dw, k) : 0;
    for (std::int64_t j = 0; j < k; ++j) out[chosen[j]] += through_share(w[j], dw[j], of_chosen, x[chosen[j]]);
    const float z = z_scale * 2.0f * all_lse[t];
    for (std::int64_t e = 0; e < E; ++e) out[e] += z * std::exp(x[e] - all_lse[t]);
  }
}

}  // namespace upcycle
