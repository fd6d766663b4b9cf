#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace upcycle {

struct SwigluSizes {
  std::int64_t T, F;
};

SwigluSizes check_swiglu_forward(const Tensor& out, const Tensor& gate_up);
SwigluSizes check_swiglu_backward(const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up);

}  // namespace upcycle
