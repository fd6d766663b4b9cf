#include <algorithm>

#include "kernels/checks/optimizer.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

namespace upcycle {
namespace {

constexpr std::int64_t kBlock = 1 << 12;  // elements; see elementwise.cpp for why threads take whole blocks
constexpr std::int64_t kParallelFrom = 1 << 14;

template <class Param>
void sgd_as(const Tensor& param, const Tensor& master, const Tensor& grad, float decay, float rate) {
  const std::int64_t n = master.size();
  Param* const p = param.as<Param>();
  float* const w = master.as<float>();
  const float* const g = grad.as<float>();
#pragma omp parallel for schedule(static) if (n >= kParallelFrom)
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t end = std::min(n, begin + kBlock);
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const float updated = w[i] * decay - rate * g[i];
      w[i] = updated;
      store(p + i, updated);
    }
  }
}

}  // namespace

// Without momentum, decoupled weight decay equals PyTorch's (added to the gradient).
void CpuOps::sgd(Stream&, const Tensor& param, const Tensor& master, const Tensor& grad, const Tensor& scale, float lr,
                 float weight_decay) {
  check_sgd(param, master, grad, scale);
  const float decay = static_cast<float>(1 - static_cast<double>(lr) * static_cast<double>(weight_decay));
  const float rate = lr * *scale.as<float>();
  if (param.dtype == DType::BF16)
    sgd_as<bf16>(param, master, grad, decay, rate);
  else
    sgd_as<float>(param, master, grad, decay, rate);
}

}  // namespace upcycle
