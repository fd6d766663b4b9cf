#include "kernels/adamw_factors.h"
#include "kernels/checks/optimizer.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/update.cuh"

namespace upcycle {
namespace {

// AdamW (arXiv 1711.05101). Every fused multiply-add is explicit: with ZeRO an element's update must not depend on
// where its shard begins, so the compiler must not contract vector groups and single elements differently.
struct Adamw {
  AdamwFactors f;

  __device__ __forceinline__ void operator()(float& w, float& m, float& v, float grad, float scale) const {
    const float g = grad * scale;
    m = fmaf(f.beta1, m, f.rest1 * g);
    v = fmaf(f.beta2, v, f.rest2 * (g * g));
    const float step = f.rate * m / fmaf(sqrtf(v), f.root, f.eps);
    w = fmaf(w, f.decay, -step);
  }
};

}  // namespace

void CudaOps::adamw(Stream& stream, const UpdateTensors& t, const Tensor& scale, const AdamwStep& step) {
  const std::int64_t n = check_adamw(t, scale, step);
  cuda::launch_update<2>("adamw", stream, t, scale, Adamw{factors_of(step)}, n);
}

}  // namespace upcycle
