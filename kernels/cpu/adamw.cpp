#include <algorithm>
#include <cmath>

#include "kernels/adamw_factors.h"
#include "kernels/checks/optimizer.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

namespace upcycle {
namespace {

constexpr std::int64_t kBlock = 1 << 12;  // elements; see elementwise.cpp for why threads take whole blocks
constexpr std::int64_t kParallelFrom = 1 << 14;

template <class Param>
void update(Param* param, float* master, float* m, float* v, const float* grad, float scale, const AdamwFactors& f,
            std::int64_t n) {
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

template <class Param>
void adamw_as(const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& v, const Tensor& grad,
              float scale, const AdamwFactors& factors) {
  const std::int64_t n = master.size();
  Param* const p = param.as<Param>();
  float *const w = master.as<float>(), *const first = m.as<float>(), *const second = v.as<float>();
  const float* const g = grad.as<float>();
#pragma omp parallel for schedule(static) if (n >= kParallelFrom)
  for (std::int64_t begin = 0; begin < n; begin += kBlock)
    update(p + begin, w + begin, first + begin, second + begin, g + begin, scale, factors, std::min(kBlock, n - begin));
}

}  // namespace

void CpuOps::adamw(Stream&, const Tensor& param, const Tensor& master, const Tensor& m, const Tensor& v,
                   const Tensor& grad, const Tensor& scale, const AdamwStep& step) {
  check_adamw(param, master, m, v, grad, scale, step);
  const AdamwFactors factors = factors_of(step);
  if (param.dtype == DType::BF16)
    adamw_as<bf16>(param, master, m, v, grad, *scale.as<float>(), factors);
  else
    adamw_as<float>(param, master, m, v, grad, *scale.as<float>(), factors);
}

}  // namespace upcycle
