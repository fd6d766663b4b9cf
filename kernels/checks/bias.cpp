#include "kernels/checks/bias.h"

#include "kernels/check.h"

namespace upcycle {

void check_add_bias(const Tensor& x, const Tensor& bias) {
  check_rows("add_bias: x", x, x.rows(), x.columns());
  check_tensor("add_bias: bias", bias, x.dtype, {x.columns()});
}

void check_bias_backward(const Tensor& dbias, const Tensor& dout) {
  check_rows("bias_backward: dout", dout, dout.rows(), dout.columns());
  check_tensor("bias_backward: dbias", dbias, DType::F32, {dout.columns()});
}

}  // namespace upcycle
