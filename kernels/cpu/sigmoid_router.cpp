#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/check.h"
#include "kernels/checks/sigmoid_router.h"
#include "kernels/cpu/choose_experts.h"
#include "kernels/cpu/cpu_ops.h"

// A thread takes whole tokens, and every sum runs in index order within one token, so the result does not depend on the
// number of threads. NaN as in router.cpp: the chosen experts are k different valid ones, the row's results NaN.
namespace upcycle {
namespace {

constexpr std::int64_t kParallelFrom = 4096;  // logits; below, starting threads costs more than the work

// Beside a row whose scores all underflow; as Megatron-Core and DeepSeek-V3 have it.
constexpr double kSmallest = 1e-20;

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// What a sum of scores is divided by, or NaN in a row that has no log-sum-exp.
float inverse(double sum, float lse) { return std::isnan(lse) ? lse : static_cast<float>(1.0 / (sum + kSmallest)); }

float log_sum_exp(const float* logits, std::int64_t E) {
  float highest = -std::numeric_limits<float>::infinity();
  for (std::int64_t e = 0; e < E; ++e) highest = std::max(highest, logits[e]);  // passes over NaN, which exp spreads
  double sum = 0;
  for (std::int64_t e = 0; e < E; ++e) sum += static_cast<double>(std::exp(logits[e] - highest));
  return static_cast<float>(static_cast<double>(highest) + std::log(sum));
}

// Scores in `probs` -> their shares, and the chosen ones' weights.
void weigh(float* weights, float* probs, float lse, const std::int32_t* experts, std::int64_t E, std::int64_t k,
           RouterSoftmax order) {
  double all = 0, chosen = 0;
  for (std::int64_t j = 0; j < k; ++j) {
    weights[j] = probs[experts[j]];
    chosen += static_cast<double>(weights[j]);
  }
  for (std::int64_t e = 0; e < E; ++e) all += static_cast<double>(probs[e]);
  const float of_all = inverse(all, lse);
  const float of_chosen = order == RouterSoftmax::TopkThenSoftmax ? inverse(chosen, lse) : std::isnan(lse) ? lse : 1.0f;
  for (std::int64_t e = 0; e < E; ++e) probs[e] *= of_all;
  for (std::int64_t j = 0; j < k; ++j) weights[j] *= of_chosen;
}

void route(const Tensor& probs, const Tensor& experts, const Tensor& weights, const Tensor& lse, const Tensor& logits,
           const Tensor& bias, RouterSoftmax order, const RouterSizes& sizes, bool replay) {
  const std::int64_t T = sizes.T, E = sizes.E, k = sizes.k;  // clang takes no bindings into parallel regions
  const float *in = logits.as<float>(), *b = bias ? bias.as<float>() : nullptr;
  float *p = probs.as<float>(), *w = weights.as<float>(), *l = lse.as<float>();
  std::int32_t* chosen = experts.as<std::int32_t>();
#pragma omp parallel if (T * E >= kParallelFrom)
  {
    std::vector<float> biased(b != nullptr ? static_cast<std::size_t>(E) : 0);
#pragma omp for schedule(static)
    for (std::int64_t t = 0; t < T; ++t) {
      float* const scores = p + t * E;
      for (std::int64_t e = 0; e < E; ++e) scores[e] = sigmoid(in[t * E + e]);
      if (!replay && b != nullptr) {
        for (std::int64_t e = 0; e < E; ++e) biased[static_cast<std::size_t>(e)] = scores[e] + b[e];
        choose_experts(chosen + t * k, k, biased.data(), E);
      } else if (!replay) {
        choose_experts(chosen + t * k, k, scores, E);
      }
      l[t] = log_sum_exp(in + t * E, E);
      weigh(w + t * k, scores, l[t], chosen + t * k, E, k, order);
    }
  }
}

}  // namespace

void CpuOps::sigmoid_router_forward(Stream&, const Tensor& probs, const Tensor& experts, const Tensor& weights,
                                    const Tensor& lse, const Tensor& logits, const Tensor& bias, RouterSoftmax order) {
  route(probs, experts, weights, lse, logits, bias, order,
        check_sigmoid_router("sigmoid_router_forward", probs, experts, weights, lse, logits, bias), false);
}

void CpuOps::sigmoid_router_weights(Stream&, const Tensor& probs, const Tensor& weights, const Tensor& lse,
                                    const Tensor& logits, const Tensor& experts, RouterSoftmax order) {
  const RouterSizes z = check_sigmoid_router("sigmoid_router_weights", probs, experts, weights, lse, logits, {});
  check_indices("sigmoid_router_weights: experts", experts.as<std::int32_t>(), z.T * z.k, 0, z.E);
  route(probs, experts, weights, lse, logits, {}, order, z, true);
}

}  // namespace upcycle
