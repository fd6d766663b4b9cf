#include "kernels/checks/router.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/experts.cuh"

namespace upcycle {
namespace {

using namespace cuda;

// <p, g>, where p sums to 1, is computed as g_0 + <p, g - g_0>: the mean of equal gradients is then exact, and the
// softmax backward p_i (g_i - mean) exactly zero instead of rounding noise. Experts that start as copies of one MLP
// have equal gradients, and Adam would amplify the noise to full steps.
__device__ __forceinline__ double beyond(float p, float g, float first) {
  return static_cast<double>(p) * (static_cast<double>(g) - static_cast<double>(first));
}
__device__ __forceinline__ float through_softmax(float p, float g, double mean) {
  return static_cast<float>(static_cast<double>(p) * (static_cast<double>(g) - mean));
}

template <int C>
__global__ void __launch_bounds__(kTokenThreads)
    backward(float* dlogits, const float* dweights, const float* probs, const int* experts, const float* weights,
             const float* lse, const float* expert_scale, float z_scale, std::int64_t T, int E, int k,
             bool topk_first) {
  const std::int64_t t = token_of_warp();
  if (t >= T) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float *const dw = dweights + t * k, *const w = weights + t * k;
  const int* const chosen = experts + t * k;
  float p[C], g[C];  // g: the gradient of probs, then of the logits
#pragma unroll
  for (int c = 0; c < C; ++c) {
    const int e = lane + 32 * c;
    p[c] = e < E ? probs[t * E + e] : 0.0f;
    g[c] = e < E ? expert_scale[e] : 0.0f;
  }
  // Every lane visits all chosen experts and keeps its own.
  const auto add_to_chosen = [&](auto gradient) {
    for (int j = 0; j < k; ++j) {
      const int e = chosen[j];
      const float add = gradient(j);
#pragma unroll
      for (int c = 0; c < C; ++c)
        if (e == lane + 32 * c) g[c] += add;
    }
  };
  if (!topk_first) add_to_chosen([&](int j) { return dw[j]; });  // the weights are entries of probs
  const float first = __shfl_sync(kFullWarp, g[0], 0);
  double sum = 0;
#pragma unroll
  for (int c = 0; c < C; ++c)
    if (lane + 32 * c < E) sum += beyond(p[c], g[c], first);
  const double mean = static_cast<double>(first) + warp_sum(sum);
#pragma unroll
  for (int c = 0; c < C; ++c) g[c] = through_softmax(p[c], g[c], mean);
  if (topk_first) {
    double chosen_sum = 0;
    for (int j = lane; j < k; j += 32) chosen_sum += beyond(w[j], dw[j], dw[0]);
    const double of_chosen = static_cast<double>(dw[0]) + warp_sum(chosen_sum);
    add_to_chosen([&](int j) { return through_softmax(w[j], dw[j], of_chosen); });
  }
  const float z = z_scale * 2.0f * lse[t];
#pragma unroll
  for (int c = 0; c < C; ++c)
    if (lane + 32 * c < E) dlogits[t * E + lane + 32 * c] = g[c] + z * p[c];
}

}  // namespace

void CudaOps::router_backward(Stream& stream, const Tensor& dlogits, const Tensor& dweights, const Tensor& probs,
                              const Tensor& experts, const Tensor& weights, const Tensor& lse,
                              const Tensor& expert_scale, float z_scale, RouterSoftmax order) {
  const auto [T, E, k] = check_router_backward(dlogits, dweights, probs, experts, weights, lse, expert_scale);
  check_experts("router_backward", E);
  if (T == 0) return;
  with_columns(E, [&](auto columns) {
    UPCYCLE_CUDA(gpu::launch(warp_a_token(stream, T), backward<decltype(columns)::value>, dlogits.as<float>(),
                             dweights.as<float>(), probs.as<float>(), experts.as<std::int32_t>(), weights.as<float>(),
                             lse.as<float>(), expert_scale.as<float>(), z_scale, T, static_cast<int>(E),
                             static_cast<int>(k), order == RouterSoftmax::TopkThenSoftmax));
  });
}

}  // namespace upcycle
