#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/checks/router.h"
#include "kernels/cpu/choose_experts.h"
#include "kernels/cpu/cpu_ops.h"

// A thread takes whole tokens, and every sum runs in index order within one token, so the result does not depend on the
// number of threads.
//
// A NaN logit ranks below every number (minus infinity included), so the chosen experts are always k different valid
// ones; the row's probs, weights and lse are NaN, so the loss shows it.
namespace upcycle {
namespace {

constexpr std::int64_t kParallelFrom = 4096;  // logits; below, starting threads costs more than the work

// probs = softmax(logits); returns log-sum-exp. The sum runs in fp64: E terms in fp32 would cost digits the z-loss
// uses.
float softmax(float* probs, const float* logits, std::int64_t E) {
  float highest = -std::numeric_limits<float>::infinity();
  for (std::int64_t e = 0; e < E; ++e) highest = std::max(highest, logits[e]);  // passes over NaN, which exp spreads
  double sum = 0;
  for (std::int64_t e = 0; e < E; ++e) {
    probs[e] = std::exp(logits[e] - highest);
    sum += static_cast<double>(probs[e]);
  }
  const float inverse = static_cast<float>(1.0 / sum);
  for (std::int64_t e = 0; e < E; ++e) probs[e] *= inverse;
  return static_cast<float>(static_cast<double>(highest) + std::log(sum));
}

// The weights of a row, from its probs and lse.
void weigh(float* weights, const float* logits, const float* probs, float lse, const std::int32_t* experts,
           std::int64_t k, RouterSoftmax order) {
  if (order == RouterSoftmax::SoftmaxThenTopk) {
    for (std::int64_t j = 0; j < k; ++j) weights[j] = probs[experts[j]];
    return;
  }
  // Given experts (router_weights) need not include the row's highest logit: scale by the highest of the chosen.
  float highest = std::isnan(lse) ? lse : logits[experts[0]];
  for (std::int64_t j = 1; j < k; ++j) highest = highest < logits[experts[j]] ? logits[experts[j]] : highest;
  double sum = 0;
  for (std::int64_t j = 0; j < k; ++j) {
    weights[j] = std::exp(logits[experts[j]] - highest);
    sum += static_cast<double>(weights[j]);
  }
  const float inverse = static_cast<float>(1.0 / sum);
  for (std::int64_t j = 0; j < k; ++j) weights[j] *= inverse;
}

void route(const char* op, const Tensor& probs, const Tensor& experts, const Tensor& weights, const Tensor& lse,
           const Tensor& logits, RouterSoftmax order, bool replay) {
  const RouterSizes sizes = check_router(op, probs, experts, weights, lse, logits);
  const std::int64_t T = sizes.T, E = sizes.E, k = sizes.k;  // clang takes no bindings into parallel regions
  const float* in = logits.as<float>();
  float *p = probs.as<float>(), *w = weights.as<float>(), *l = lse.as<float>();
  std::int32_t* chosen = experts.as<std::int32_t>();
  if (replay) check_indices("router_weights: experts", chosen, T * k, 0, E);
#pragma omp parallel for schedule(static) if (T * E >= kParallelFrom)
  for (std::int64_t t = 0; t < T; ++t) {
    if (!replay) choose_experts(chosen + t * k, k, in + t * E, E);
    l[t] = softmax(p + t * E, in + t * E, E);
    weigh(w + t * k, in + t * E, p + t * E, l[t], chosen + t * k, k, order);
  }
}

}  // namespace

void CpuOps::router_forward(Stream&, const Tensor& probs, const Tensor& experts, const Tensor& weights,
                            const Tensor& lse, const Tensor& logits, RouterSoftmax order) {
  route("router_forward", probs, experts, weights, lse, logits, order, false);
}

void CpuOps::router_weights(Stream&, const Tensor& probs, const Tensor& weights, const Tensor& lse,
                            const Tensor& logits, const Tensor& experts, RouterSoftmax order) {
  route("router_weights", probs, experts, weights, lse, logits, order, true);
}

}  // namespace upcycle
