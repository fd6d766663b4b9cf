#include "kernels/checks/optimizer.h"
#include "kernels/cpu/update_blocks.h"

namespace upcycle {
namespace {

template <class Param>
[[gnu::noinline]] void update(Param* param, float* master, const float* grad, float decay, float rate, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float updated = master[i] * decay - rate * grad[i];
    master[i] = updated;
    store(param + i, updated);
  }
}

}  // namespace

void CpuOps::sgd(Stream&, const UpdateTensors& t, const Tensor& scale, float lr, float weight_decay) {
  check_sgd(t, scale);
  const float decay = static_cast<float>(1 - static_cast<double>(lr) * static_cast<double>(weight_decay));
  const float rate = lr * *scale.as<float>();
  update_blocks(t, [&](auto* param, float* master, float*, float*, const float* grad, std::int64_t n) {
    update(param, master, grad, decay, rate, n);
  });
}

}  // namespace upcycle
