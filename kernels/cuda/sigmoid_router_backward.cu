#include "kernels/checks/sigmoid_router.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/experts.cuh"

// With s = sigmoid(x), ds/dx = s (1 - s), and 1 - s = sigmoid(-x) keeps its digits where s is nearly 1. A share s / sum
// then has the gradient  share * sigmoid(-x) * (g - <share, g>).
namespace upcycle {
namespace {

using namespace cuda;

// <p, g> is computed as in router_backward.cu: equal gradients have no gradient at all.
__device__ __forceinline__ double beyond(float p, float g, float first) {
  return static_cast<double>(p) * (static_cast<double>(g) - static_cast<double>(first));
}
__device__ __forceinline__ float through_share(float p, float g, double mean, float x) {
  const float complement = 1.0f / (1.0f + expf(x));  // sigmoid(-x)
  return static_cast<float>(static_cast<double>(p) * static_cast<double>(complement) * (static_cast<double>(g) - mean));
}

__global__ void __launch_bounds__(kTokenThreads)
    backward(float* dlogits, const float* dweights, const float* probs, const int* experts, const float* weights,
             const float* lse, const float* logits, const float* expert_scale, float z_scale, std::int64_t T, int E,
             int k, bool of_chosen) {
  const std::int64_t t = token_of_warp();
  if (t >= T) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float *const dw = dweights + t * k, *const w = weights + t * k, *const p = probs + t * E,
                     *const x = logits + t * E;
  const int* const chosen = experts + t * k;
  float* const out = dlogits + t * E;
  const float first = expert_scale[0];
  double sum = 0, chosen_sum = 0;
  for (int e = lane; e < E; e += 32) sum += beyond(p[e], expert_scale[e], first);
  const double mean = static_cast<double>(first) + warp_sum(sum);
  if (of_chosen)
    for (int j = lane; j < k; j += 32) chosen_sum += beyond(w[j], dw[j], dw[0]);
  // Weights that are the scores themselves are their own shares, of nothing else.
  const double chosen_mean = of_chosen ? static_cast<double>(dw[0]) + warp_sum(chosen_sum) : 0.0;
  const float row_lse = lse[t], z = z_scale * 2.0f * row_lse;
  for (int e = lane; e < E; e += 32) out[e] = through_share(p[e], expert_scale[e], mean, x[e]);
  __syncwarp();  // the chosen are other lanes' too
  for (int j = lane; j < k; j += 32) out[chosen[j]] += through_share(w[j], dw[j], chosen_mean, x[chosen[j]]);
  __syncwarp();
  for (int e = lane; e < E; e += 32) out[e] += z * expf(x[e] - row_lse);
}

}  // namespace

void CudaOps::sigmoid_router_backward(Stream& stream, const Tensor& dlogits, const Tensor& dweights,
                                      const Tensor& probs, const Tensor& experts, const Tensor& weights,
                                      const Tensor& lse, const Tensor& logits, const Tensor& expert_scale,
                                      float z_scale, RouterSoftmax order) {
  const auto [T, E, k] =
      check_sigmoid_router_backward(dlogits, dweights, probs, experts, weights, lse, logits, expert_scale);
  check_experts("sigmoid_router_backward", E);
  if (T == 0) return;
  UPCYCLE_CUDA(gpu::launch(warp_a_token(stream, T), backward, dlogits.as<float>(), dweights.as<float>(),
                           probs.as<float>(), experts.as<std::int32_t>(), weights.as<float>(), lse.as<float>(),
                           logits.as<float>(), expert_scale.as<float>(), z_scale, T, static_cast<int>(E),
                           static_cast<int>(k), order == RouterSoftmax::TopkThenSoftmax));
}

}  // namespace upcycle
