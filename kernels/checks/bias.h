#pragma once
#include "core/tensor.h"

namespace upcycle {

void check_add_bias(const Tensor& x, const Tensor& bias);
void check_bias_backward(const Tensor& dbias, const Tensor& dout);

}  // namespace upcycle
