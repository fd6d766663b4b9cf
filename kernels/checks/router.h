#pragma once
#include <cstdint>

#include "core/tensor.h"

// Whether the entries of `experts` are experts is seen only where the host can read them: the CPU's ops do.
namespace upcycle {

struct RouterSizes {
  std::int64_t T, E, k;
};

// Of router_forward and router_weights, which is `op`.
RouterSizes check_router(const char* op, const Tensor& probs, const Tensor& experts, const Tensor& weights,
                         const Tensor& lse, const Tensor& logits);
RouterSizes check_router_stats(const Tensor& stats, const Tensor& probs, const Tensor& experts, const Tensor& lse);
// Returns E.
std::int64_t check_router_losses(const Tensor& expert_scale, const Tensor& metrics, const Tensor& stats, std::int64_t T,
                                 std::int64_t k);
RouterSizes check_router_backward(const Tensor& dlogits, const Tensor& dweights, const Tensor& probs,
                                  const Tensor& experts, const Tensor& weights, const Tensor& lse,
                                  const Tensor& expert_scale);

}  // namespace upcycle
