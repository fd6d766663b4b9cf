#pragma once
#include <cstdint>

#include "core/tensor.h"

// The entries of `experts` are checked only by the CPU's ops, since the host can not read them on other devices.
namespace upcycle {

struct RouterSizes {
  std::int64_t T, E, k;
};

// For router_forward and router_weights; `op` is the name of one of them.
RouterSizes check_router(const char* op, const Tensor& probs, const Tensor& experts, const Tensor& weights,
                         const Tensor& lse, const Tensor& logits);
RouterSizes check_router_stats(const Tensor& stats, const Tensor& probs, const Tensor& experts, const Tensor& lse);
// Returns E.
std::int64_t check_router_losses(const Tensor& expert_scale, const Tensor& metrics, const Tensor& stats,
                                 const Tensor& counted, std::int64_t T, std::int64_t k);
RouterSizes check_router_backward(const Tensor& dlogits, const Tensor& dweights, const Tensor& probs,
                                  const Tensor& experts, const Tensor& weights, const Tensor& lse,
                                  const Tensor& expert_scale);

}  // namespace upcycle
