#include "kernels/check.h"
#include "kernels/checks/router.h"
#include "kernels/cpu/cpu_ops.h"

namespace upcycle {
namespace {

constexpr std::int64_t kParallelFrom = 4096;

// <p, g>, where p sums to 1, computed as g_0 + <p, g - g_0>: the mean of equal gradients is then exact, and the softmax
// backward p_i (g_i - mean) exactly zero instead of rounding noise. Experts that start as copies of one MLP have equal
// gradients, and Adam would amplify the noise to full steps.
double mean(const float* p, const float* g, std::int64_t n) {
  const double first = static_cast<double>(g[0]);
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(p[i]) * (static_cast<double>(g[i]) - first);
  return first + sum;
}

float through_softmax(float p, float g, double mean) {
  return static_cast<float>(static_cast<double>(p) * (static_cast<double>(g) - mean));
}

}  // namespace

void CpuOps::router_backward(Stream&, const Tensor& dlogits, const Tensor& dweights, const Tensor& probs,
                             const Tensor& experts, const Tensor& weights, const Tensor& lse,
                             const Tensor& expert_scale, float z_scale, RouterSoftmax order) {
  const RouterSizes sizes = check_router_backward(dlogits, dweights, probs, experts, weights, lse, expert_scale);
  const std::int64_t T = sizes.T, E = sizes.E, k = sizes.k;  // clang takes no bindings into parallel regions
  const std::int32_t* all_chosen = experts.as<std::int32_t>();
  check_indices("router_backward: experts", all_chosen, T * k, 0, E);
  const float* scale = expert_scale.as<float>();
  float* all_out = dlogits.as<float>();
  const float *all_dw = dweights.as<float>(), *all_p = probs.as<float>(), *all_w = weights.as<float>(),
              *all_lse = lse.as<float>();
#pragma omp parallel for schedule(static) if (T * E >= kParallelFrom)
  for (std::int64_t t = 0; t < T; ++t) {
    float* out = all_out + t * E;
    const float *dw = all_dw + t * k, *p = all_p + t * E, *w = all_w + t * k;
    const std::int32_t* chosen = all_chosen + t * k;
    if (order == RouterSoftmax::SoftmaxThenTopk) {
      // The weights are entries of probs: both gradients go through the one full softmax; `out` temporarily holds
      // dprobs.
      for (std::int64_t e = 0; e < E; ++e) out[e] = scale[e];
      for (std::int64_t j = 0; j < k; ++j) out[chosen[j]] += dw[j];
      const double m = mean(p, out, E);
      for (std::int64_t e = 0; e < E; ++e) out[e] = through_softmax(p[e], out[e], m);
    } else {
      const double all = mean(p, scale, E), of_chosen = mean(w, dw, k);
      for (std::int64_t e = 0; e < E; ++e) out[e] = through_softmax(p[e], scale[e], all);
      for (std::int64_t j = 0; j < k; ++j) out[chosen[j]] += through_softmax(w[j], dw[j], of_chosen);
    }
    const float z = z_scale * 2.0f * all_lse[t];
    for (std::int64_t e = 0; e < E; ++e) out[e] += z * p[e];
  }
}

}  // namespace upcycle
