#include "kernels/checks/swiglu.h"

#include "kernels/check.h"

namespace upcycle {

SwigluSizes check_swiglu_forward(const Tensor& out, const Tensor& gate_up) {
  const std::int64_t T = out.rows(), F = out.columns();
  check_rows("swiglu_forward: out", out, T, F);
  check_rows("swiglu_forward: gate_up", gate_up, T, 2 * F);
  check_same_type("swiglu_forward", gate_up, out);
  return {T, F};
}

SwigluSizes check_swiglu_backward(const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up) {
  const std::int64_t T = dout.rows(), F = dout.columns();
  check_rows("swiglu_backward: dout", dout, T, F);
  check_rows("swiglu_backward: gate_up", gate_up, T, 2 * F);
  check_rows("swiglu_backward: dgate_up", dgate_up, T, 2 * F);
  check_same_type("swiglu_backward", gate_up, dout);
  check_same_type("swiglu_backward", dgate_up, dout);
  return {T, F};
}

}  // namespace upcycle
