#include "kernels/checks/optimizer.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"

namespace upcycle {
namespace {

using namespace cuda;

constexpr int kGroup = 8;

// The fused multiply-add is explicit for the reason given in adamw.cu.
template <class Param, int N>
__device__ __forceinline__ void update(Param* param, float* master, const float* grad, float decay, float rate) {
  float w[N], g[N];
  Access<float, N>::load(w, master);
  Access<float, N>::load(g, grad);
#pragma unroll
  for (int i = 0; i < N; ++i) w[i] = fmaf(w[i], decay, -(rate * g[i]));
  Access<float, N>::store(master, w);
  Access<Param, N>::store(param, w);
}

template <class Param, int N>
__global__ void sgd_kernel(RowGrid grid, Param* param, float* master, const float* grad, const float* scale,
                           float decay, float lr, std::int64_t n) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const float rate = lr * *scale;
  const std::int64_t begin = at.group * N;
  if (begin + N <= n) {
    update<Param, N>(param + begin, master + begin, grad + begin, decay, rate);
  } else {
#pragma unroll 1
    for (std::int64_t i = begin; i < n; ++i) update<Param, 1>(param + i, master + i, grad + i, decay, rate);
  }
}

}  // namespace

// Without momentum, decoupled weight decay equals PyTorch's (added to the gradient).
void CudaOps::sgd(Stream& stream, const Tensor& param, const Tensor& master, const Tensor& grad, const Tensor& scale,
                  float lr, float weight_decay) {
  const std::int64_t n = check_sgd(param, master, grad, scale);
  const float decay = static_cast<float>(1 - static_cast<double>(lr) * static_cast<double>(weight_decay));
  bool aligned = true;
  for (const Tensor* t : {&param, &master, &grad})
    aligned = aligned && reinterpret_cast<std::uintptr_t>(t->data) % 16 == 0;
  const std::int64_t per = aligned ? kGroup : 1;
  with_type(param, [&]<class Param>(Param*) {
    launch_rows("sgd", stream, 1, (n + per - 1) / per, aligned ? sgd_kernel<Param, kGroup> : sgd_kernel<Param, 1>,
                static_cast<Param*>(param.data), master.as<float>(), grad.as<float>(), scale.as<float>(), decay, lr, n);
  });
}

}  // namespace upcycle
