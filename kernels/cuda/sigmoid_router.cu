#include <cmath>

#include "kernels/checks/sigmoid_router.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/experts.cuh"

// NaN as in router.cu: the chosen experts are k different valid ones, the row's results NaN.
namespace upcycle {
namespace {

using namespace cuda;

// Beside a row whose scores all underflow; as Megatron-Core and DeepSeek-V3 have it.
constexpr double kSmallest = 1e-20;

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
// What a sum of scores is divided by, or NaN in a row that has no log-sum-exp.
__device__ __forceinline__ float inverse(double sum, float lse) {
  return std::isnan(lse) ? lse : static_cast<float>(1.0 / (sum + kSmallest));
}

template <int C>
__device__ void choose_biased(int* chosen, int k, const float* logits, const float* bias, int E, int lane) {
  float scores[C];
#pragma unroll
  for (int c = 0; c < C; ++c) {
    const int e = lane + 32 * c;
    scores[c] = e < E ? sigmoid(logits[e]) + (bias != nullptr ? bias[e] : 0.0f) : 0.0f;
  }
  choose_experts<C>(chosen, k, scores, E, lane);
}

// The choice has registers of its own, which are free again after it: the logits are read anew, from the cache.
template <int C, bool Replay>
__global__ void __launch_bounds__(kTokenThreads)
    route_by_sigmoid(float* probs, int* experts, float* weights, float* lse, const float* logits, const float* bias,
                     std::int64_t T, int E, int k, bool of_chosen) {
  const std::int64_t t = token_of_warp();
  if (t >= T) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float* const in = logits + t * E;
  int* const chosen = experts + t * k;
  if constexpr (!Replay) choose_biased<C>(chosen, k, in, bias, E, lane);

  float highest = -INFINITY;
  for (int e = lane; e < E; e += 32) highest = fmaxf(highest, in[e]);
  highest = warp_max(highest);
  double sum = 0, all = 0;
  for (int e = lane; e < E; e += 32) {
    sum += static_cast<double>(expf(in[e] - highest));
    all += static_cast<double>(sigmoid(in[e]));
  }
  const float row_lse = static_cast<float>(static_cast<double>(highest) + log(warp_sum(sum)));
  const float of_all = inverse(warp_sum(all), row_lse);
  for (int e = lane; e < E; e += 32) probs[t * E + e] = sigmoid(in[e]) * of_all;
  if (lane == 0) lse[t] = row_lse;

  double chosen_sum = 0;
  for (int j = lane; j < k; j += 32) chosen_sum += static_cast<double>(sigmoid(in[chosen[j]]));
  const double total = warp_sum(chosen_sum);
  const float factor = of_chosen ? inverse(total, row_lse) : std::isnan(row_lse) ? row_lse : 1.0f;
  for (int j = lane; j < k; j += 32) weights[t * k + j] = sigmoid(in[chosen[j]]) * factor;
}

template <bool Replay>
void route(Stream& stream, const Tensor& probs, const Tensor& experts, const Tensor& weights, const Tensor& lse,
           const Tensor& logits, const Tensor& bias, RouterSoftmax order, const char* op) {
  const auto [T, E, k] = check_sigmoid_router(op, probs, experts, weights, lse, logits, bias);
  check_experts(op, E);
  if (T == 0) return;
  with_columns(E, [&](auto columns) {
    UPCYCLE_CUDA(gpu::launch(warp_a_token(stream, T), route_by_sigmoid<decltype(columns)::value, Replay>,
                             probs.as<float>(), experts.as<std::int32_t>(), weights.as<float>(), lse.as<float>(),
                             logits.as<float>(), bias ? bias.as<float>() : nullptr, T, static_cast<int>(E),
                             static_cast<int>(k), order == RouterSoftmax::TopkThenSoftmax));
  });
}

}  // namespace

void CudaOps::sigmoid_router_forward(Stream& stream, const Tensor& probs, const Tensor& experts, const Tensor& weights,
                                     const Tensor& lse, const Tensor& logits, const Tensor& bias, RouterSoftmax order) {
  route<false>(stream, probs, experts, weights, lse, logits, bias, order, "sigmoid_router_forward");
}

void CudaOps::sigmoid_router_weights(Stream& stream, const Tensor& probs, const Tensor& weights, const Tensor& lse,
                                     const Tensor& logits, const Tensor& experts, RouterSoftmax order) {
  route<true>(stream, probs, experts, weights, lse, logits, {}, order, "sigmoid_router_weights");
}

}  // namespace upcycle
