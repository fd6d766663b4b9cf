#include <cmath>

#include "kernels/adamw_factors.h"
#include "kernels/checks/optimizer.h"
#include "kernels/cpu/update_blocks.h"

namespace upcycle {
namespace {

template <class Param>
[[gnu::noinline]] void update(Param* param, float* master, float* m, float* v, const float* grad, float scale,
                              const AdamwFactors& f, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = grad[i] * scale;
    const float first = f.beta1 * m[i] + f.rest1 * g;
    const float second = f.beta2 * v[i] + f.rest2 * (g * g);
    const float updated = master[i] * f.decay - f.rate * first / (std::sqrt(second) * f.root + f.eps);
    m[i] = first;
    v[i] = second;
    master[i] = updated;
    store(param + i, updated);
  }
}

}  // namespace

void CpuOps::adamw(Stream&, const UpdateTensors& t, const Tensor& scale, const AdamwStep& step) {
  check_adamw(t, scale, step);
  const AdamwFactors factors = factors_of(step);
  const float by = *scale.as<float>();
  update_blocks(t, [&](auto* param, float* master, float* m, float* v, const float* grad, std::int64_t n) {
    update(param, master, m, v, grad, by, factors, n);
  });
}

}  // namespace upcycle
