#include "kernels/checks/optimizer.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/lion_factors.h"

// Lion (arXiv 2302.06675).
namespace upcycle {
namespace {

using namespace cuda;

constexpr int kGroup = 8;

// Every fused multiply-add is explicit for the reason given in adamw.cu.
template <class Param, int N>
__device__ __forceinline__ void update(Param* param, float* master, float* m, const float* grad, float scale,
                                       const LionFactors& f) {
  float w[N], moment[N], g[N];
  Access<float, N>::load(w, master);
  Access<float, N>::load(moment, m);
  Access<float, N>::load(g, grad);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    g[i] *= scale;
    const float direction = fmaf(f.beta1, moment[i], f.rest1 * g[i]);
    const float step = direction > 0 ? f.lr : (direction < 0 ? -f.lr : 0.0f);
    moment[i] = fmaf(f.beta2, moment[i], f.rest2 * g[i]);
    w[i] = fmaf(w[i], f.decay, -step);
  }
  Access<float, N>::store(m, moment);
  Access<float, N>::store(master, w);
  Access<Param, N>::store(param, w);
}

template <class Param, int N>
__global__ void lion_kernel(RowGrid grid, Param* param, float* master, float* m, const float* grad, const float* scale,
                            LionFactors factors, std::int64_t n) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const std::int64_t begin = at.group * N;
  if (begin + N <= n) {
    update<Param, N>(param + begin, master + begin, m + begin, grad + begin, *scale, factors);
  } else {
#pragma unroll 1
    for (std::int64_t i = begin; i < n; ++i) update<Param, 1>(param + i, master + i, m + i, grad + i, *scale, factors);
  }
}

}  // namespace

void CudaOps::lion(Stream& stream, const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& grad,
                   const Tensor& scale, const LionStep& step) {
  const std::int64_t n = check_lion(param, master, m, grad, scale, step);
  bool aligned = true;
  for (const Tensor* t : {&param, &master, &m, &grad})
    aligned = aligned && reinterpret_cast<std::uintptr_t>(t->data) % 16 == 0;
  const std::int64_t per = aligned ? kGroup : 1;
  with_type(param, [&]<class Param>(Param*) {
    launch_rows("lion", stream, 1, (n + per - 1) / per, aligned ? lion_kernel<Param, kGroup> : lion_kernel<Param, 1>,
                static_cast<Param*>(param.data), master.as<float>(), m.as<float>(), grad.as<float>(), scale.as<float>(),
                factors_of(step), n);
  });
}

}  // namespace upcycle
