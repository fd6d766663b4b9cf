#include "kernels/checks/optimizer.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/update.cuh"

namespace upcycle {
namespace {

// The fused multiply-add is explicit for the reason given in adamw.cu.
struct Sgd {
  float decay, lr;

  __device__ __forceinline__ void operator()(float& w, float&, float&, float grad, float scale) const {
    const float rate = lr * scale;
    w = fmaf(w, decay, -(rate * grad));
  }
};

}  // namespace

void CudaOps::sgd(Stream& stream, const UpdateTensors& t, const Tensor& scale, float lr, float weight_decay) {
  const std::int64_t n = check_sgd(t, scale);
  const float decay = static_cast<float>(1 - static_cast<double>(lr) * static_cast<double>(weight_decay));
  cuda::launch_update<0>("sgd", stream, t, scale, Sgd{decay, lr}, n);
}

}  // namespace upcycle
