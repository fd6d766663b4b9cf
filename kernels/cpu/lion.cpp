#include "kernels/lion_factors.h"

#include "kernels/checks/optimizer.h"
#include "kernels/cpu/update_blocks.h"

// Lion (arXiv 2302.06675).
namespace upcycle {
namespace {

template <class Param>
[[gnu::noinline]] void update(Param* param, float* master, float* m, const float* grad, float scale,
                              const LionFactors& f, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float clipped = grad[i] * scale, before = m[i];
    const float direction = f.beta1 * before + f.rest1 * clipped;
    const float step = direction > 0 ? f.lr : (direction < 0 ? -f.lr : 0.0F);
    const float updated = master[i] * f.decay - step;
    m[i] = f.beta2 * before + f.rest2 * clipped;
    master[i] = updated;
    store(param + i, updated);
  }
}

}  // namespace

void CpuOps::lion(Stream&, const UpdateTensors& t, const Tensor& scale, const LionStep& step) {
  check_lion(t, scale, step);
  const LionFactors factors = factors_of(step);
  const float by = *scale.as<float>();
  update_blocks(t, [&](auto* param, float* master, float* m, float*, const float* grad, std::int64_t n) {
    update(param, master, m, grad, by, factors, n);
  });
}

}  // namespace upcycle
