#include <cmath>

#include "kernels/checks/router.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/experts.cuh"

// A NaN logit ranks below every number (minus infinity included), so the chosen experts are always k different valid
// ones; the row's probs, weights and lse are NaN, so the loss shows it.
namespace upcycle {
namespace {

using namespace cuda;

// The weights of the chosen experts, from the row's probs and lse.
__device__ void weigh(float* weights, const float* logits, const float* probs, float lse, const int* experts, int k,
                      bool topk_first, int lane) {
  if (!topk_first) {
    for (int j = lane; j < k; j += 32) weights[j] = probs[experts[j]];
    return;
  }
  // Given experts (router_weights) need not include the row's highest logit: scale by the highest of the chosen.
  float highest = -INFINITY;
  for (int j = lane; j < k; j += 32) highest = fmaxf(highest, logits[experts[j]]);
  highest = std::isnan(lse) ? lse : warp_max(highest);
  double sum = 0;
  for (int j = lane; j < k; j += 32) sum += static_cast<double>(expf(logits[experts[j]] - highest));
  const float inverse = static_cast<float>(1.0 / warp_sum(sum));
  for (int j = lane; j < k; j += 32) weights[j] = expf(logits[experts[j]] - highest) * inverse;
}

// The sum of the softmax runs in fp64: E terms in fp32 would cost digits that the z-loss uses.
template <int C, bool Replay>
__global__ void __launch_bounds__(kTokenThreads)
    route_tokens(float* probs, int* experts, float* weights, float* lse, const float* logits, std::int64_t T, int E,
                 int k, bool topk_first) {
  const std::int64_t t = token_of_warp();
  if (t >= T) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float* const in = logits + t * E;
  int* const chosen = experts + t * k;
  float x[C];
#pragma unroll
  for (int c = 0; c < C; ++c) x[c] = lane + 32 * c < E ? in[lane + 32 * c] : -INFINITY;
  if constexpr (!Replay) choose_experts<C>(chosen, k, x, E, lane);

  float highest = -INFINITY;
#pragma unroll
  for (int c = 0; c < C; ++c) highest = fmaxf(highest, x[c]);
  highest = warp_max(highest);
  double sum = 0;
#pragma unroll
  for (int c = 0; c < C; ++c) {
    x[c] = lane + 32 * c < E ? expf(x[c] - highest) : 0.0f;
    sum += static_cast<double>(x[c]);
  }
  sum = warp_sum(sum);
  const float inverse = static_cast<float>(1.0 / sum);
#pragma unroll
  for (int c = 0; c < C; ++c)
    if (lane + 32 * c < E) probs[t * E + lane + 32 * c] = x[c] * inverse;
  const float row_lse = static_cast<float>(static_cast<double>(highest) + log(sum));
  if (lane == 0) lse[t] = row_lse;
  __syncwarp();  // other lanes' probs are read
  weigh(weights + t * k, in, probs + t * E, row_lse, chosen, k, topk_first, lane);
}

template <bool Replay>
void route(const char* op, Stream& stream, const Tensor& probs, const Tensor& experts, const Tensor& weights,
           const Tensor& lse, const Tensor& logits, RouterSoftmax order) {
  const auto [T, E, k] = check_router(op, probs, experts, weights, lse, logits);
  check_experts(op, E);
  if (T == 0) return;
  with_columns(E, [&](auto columns) {
    UPCYCLE_CUDA(gpu::launch(warp_a_token(stream, T), route_tokens<decltype(columns)::value, Replay>, probs.as<float>(),
                             experts.as<std::int32_t>(), weights.as<float>(), lse.as<float>(), logits.as<float>(), T,
                             static_cast<int>(E), static_cast<int>(k), order == RouterSoftmax::TopkThenSoftmax));
  });
}

}  // namespace

void CudaOps::router_forward(Stream& stream, const Tensor& probs, const Tensor& experts, const Tensor& weights,
                             const Tensor& lse, const Tensor& logits, RouterSoftmax order) {
  route<false>("router_forward", stream, probs, experts, weights, lse, logits, order);
}

void CudaOps::router_weights(Stream& stream, const Tensor& probs, const Tensor& weights, const Tensor& lse,
                             const Tensor& logits, const Tensor& experts, RouterSoftmax order) {
  route<true>("router_weights", stream, probs, experts, weights, lse, logits, order);
}

}  // namespace upcycle
