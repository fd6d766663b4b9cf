#pragma once
#include "kernels/checks/router.h"

namespace upcycle {

// For sigmoid_router_forward and sigmoid_router_weights; `op` is the name of one of them. `bias` may be empty.
RouterSizes check_sigmoid_router(const char* op, const Tensor& probs, const Tensor& experts, const Tensor& weights,
                                 const Tensor& lse, const Tensor& logits, const Tensor& bias);
RouterSizes check_sigmoid_router_backward(const Tensor& dlogits, const Tensor& dweights, const Tensor& probs,
                                          const Tensor& experts, const Tensor& weights, const Tensor& lse,
                                          const Tensor& logits, const Tensor& expert_scale);

}  // namespace upcycle
