#include "kernels/checks/sigmoid_router.h"

#include "kernels/check.h"

namespace upcycle {

RouterSizes check_sigmoid_router(const char* op, const Tensor& probs, const Tensor& experts, const Tensor& weights,
                                 const Tensor& lse, const Tensor& logits, const Tensor& bias) {
  const RouterSizes z = check_router(op, probs, experts, weights, lse, logits);
  if (bias) check_tensor("sigmoid_router: bias", bias, DType::F32, {z.E});
  return z;
}

RouterSizes check_sigmoid_router_backward(const Tensor& dlogits, const Tensor& dweights, const Tensor& probs,
                                          const Tensor& experts, const Tensor& weights, const Tensor& lse,
                                          const Tensor& logits, const Tensor& expert_scale) {
  const RouterSizes z = check_router_backward(dlogits, dweights, probs, experts, weights, lse, expert_scale);
  check_tensor("sigmoid_router_backward: logits", logits, DType::F32, {z.T, z.E});
  return z;
}

}  // namespace upcycle
