#include <algorithm>

#include "kernels/checks/optimizer.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"
#include "kernels/lion_factors.h"

// Lion (arXiv 2302.06675).
namespace upcycle {
namespace {

constexpr std::int64_t kBlock = 1 << 12;  // elements; see elementwise.cpp for why threads take whole blocks
constexpr std::int64_t kParallelFrom = 1 << 14;

template <class Param>
void lion_as(const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& grad, float scale,
             const LionFactors& f) {
  const std::int64_t n = master.size();
  Param* const p = param.as<Param>();
  float *const w = master.as<float>(), *const moment = m.as<float>();
  const float* const g = grad.as<float>();
#pragma omp parallel for schedule(static) if (n >= kParallelFrom)
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t end = std::min(n, begin + kBlock);
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const float clipped = g[i] * scale, before = moment[i];
      const float direction = f.beta1 * before + f.rest1 * clipped;
      const float step = direction > 0 ? f.lr : (direction < 0 ? -f.lr : 0.0F);
      const float updated = w[i] * f.decay - step;
      moment[i] = f.beta2 * before + f.rest2 * clipped;
      w[i] = updated;
      store(p + i, updated);
    }
  }
}

}  // namespace

void CpuOps::lion(Stream&, const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& grad,
                  const Tensor& scale, const LionStep& step) {
  check_lion(param, master, m, grad, scale, step);
  const LionFactors factors = factors_of(step);
  if (param.dtype == DType::BF16)
    lion_as<bf16>(param, master, m, grad, *scale.as<float>(), factors);
  else
    lion_as<float>(param, master, m, grad, *scale.as<float>(), factors);
}

}  // namespace upcycle
