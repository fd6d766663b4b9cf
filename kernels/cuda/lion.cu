#include "kernels/checks/optimizer.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/update.cuh"
#include "kernels/lion_factors.h"

namespace upcycle {
namespace {

// Lion (arXiv 2302.06675). Every fused multiply-add is explicit for the reason given in adamw.cu.
struct Lion {
  LionFactors f;

  __device__ __forceinline__ void operator()(float& w, float& m, float&, float grad, float scale) const {
    const float g = grad * scale;
    const float direction = fmaf(f.beta1, m, f.rest1 * g);
    const float step = direction > 0 ? f.lr : (direction < 0 ? -f.lr : 0.0f);
    m = fmaf(f.beta2, m, f.rest2 * g);
    w = fmaf(w, f.decay, -step);
  }
};

}  // namespace

void CudaOps::lion(Stream& stream, const UpdateTensors& t, const Tensor& scale, const LionStep& step) {
  const std::int64_t n = check_lion(t, scale, step);
  cuda::launch_update<1>("lion", stream, t, scale, Lion{factors_of(step)}, n);
}

}  // namespace upcycle
