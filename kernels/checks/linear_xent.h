#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace upcycle {

struct LinearXentSizes {
  std::int64_t T, V, H;
};
LinearXentSizes check_linear_xent_stats(const Tensor& stats, const Tensor& x, const Tensor& weight,
                                        const Tensor& targets, std::int64_t vocab_valid);
LinearXentSizes check_linear_xent_backward(const Tensor& dx, const Tensor& dweight, const Tensor& x,
                                           const Tensor& weight, const Tensor& targets, const Tensor& lse,
                                           std::int64_t vocab_valid);

struct XentCombineSizes {
  std::int64_t ranks, T;
};
XentCombineSizes check_xent_combine(const Tensor& nll, const Tensor& lse, const Tensor& loss_sum, const Tensor& stats,
                                    const Tensor& targets);

}  // namespace upcycle
