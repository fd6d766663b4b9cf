#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace upcycle {

struct GateSizes {
  std::int64_t T, F, H;
};

GateSizes check_gate_rows_forward(const Tensor& rows, const Tensor& x, const Tensor& weight);
GateSizes check_gate_rows_backward(const Tensor& drows, const Tensor& dlogits, const Tensor& rows, const Tensor& x,
                                   const Tensor& weight);
GateSizes check_gate_logits_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dlogits, const Tensor& x,
                                     const Tensor& weight);  // F is 0

}  // namespace upcycle
