#include "kernels/adamw_factors.h"
#include "kernels/checks/optimizer.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"

// AdamW (arXiv 1711.05101).
namespace upcycle {
namespace {

using namespace cuda;

constexpr int kGroup = 8;

// Every fused multiply-add is explicit: with ZeRO an element's update must not depend on where its shard begins, so the
// compiler must not contract vector groups and single elements differently.
template <class Param, int N>
__device__ __forceinline__ void update(Param* param, float* master, float* m, float* v, const float* grad, float scale,
                                       const AdamwFactors& f) {
  float w[N], first[N], second[N], g[N];
  Access<float, N>::load(w, master);
  Access<float, N>::load(first, m);
  Access<float, N>::load(second, v);
  Access<float, N>::load(g, grad);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    g[i] *= scale;
    first[i] = fmaf(f.beta1, first[i], f.rest1 * g[i]);
    second[i] = fmaf(f.beta2, second[i], f.rest2 * (g[i] * g[i]));
    const float step = f.rate * first[i] / fmaf(sqrtf(second[i]), f.root, f.eps);
    w[i] = fmaf(w[i], f.decay, -step);
  }
  Access<float, N>::store(m, first);
  Access<float, N>::store(v, second);
  Access<float, N>::store(master, w);
  Access<Param, N>::store(param, w);
}

template <class Param, int N>
__global__ void adamw_kernel(RowGrid grid, Param* param, float* master, float* m, float* v, const float* grad,
                             const float* scale, AdamwFactors factors, std::int64_t n) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const std::int64_t begin = at.group * N;
  if (begin + N <= n) {
    update<Param, N>(param + begin, master + begin, m + begin, v + begin, grad + begin, *scale, factors);
  } else {
#pragma unroll 1
    for (std::int64_t i = begin; i < n; ++i)
      update<Param, 1>(param + i, master + i, m + i, v + i, grad + i, *scale, factors);
  }
}

}  // namespace

void CudaOps::adamw(Stream& stream, const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& v,
                    const Tensor& grad, const Tensor& scale, const AdamwStep& step) {
  const std::int64_t n = check_adamw(param, master, m, v, grad, scale, step);
  bool aligned = true;
  for (const Tensor* t : {&param, &master, &m, &v, &grad})
    aligned = aligned && reinterpret_cast<std::uintptr_t>(t->data) % 16 == 0;
  const std::int64_t per = aligned ? kGroup : 1;
  with_type(param, [&]<class Param>(Param*) {
    launch_rows("adamw", stream, 1, (n + per - 1) / per, aligned ? adamw_kernel<Param, kGroup> : adamw_kernel<Param, 1>,
                static_cast<Param*>(param.data), master.as<float>(), m.as<float>(), v.as<float>(), grad.as<float>(),
                scale.as<float>(), factors_of(step), n);
  });
}

}  // namespace upcycle
