#include "kernels/checks/rms_norm.h"

#include "kernels/check.h"

namespace upcycle {

RmsNormSizes check_rms_norm_forward(const Tensor& out, const Tensor& rstd, const Tensor& sum, const Tensor& x,
                                    const Tensor& delta, const Tensor& weight) {
  const std::int64_t T = x.rows(), H = x.columns();
  check_rows("rms_norm_forward: x", x, T, H);
  check_rows("rms_norm_forward: out", out, T, H);
  check_same_type("rms_norm_forward", out, x);
  check_tensor("rms_norm_forward: weight", weight, x.dtype, {H});
  check_tensor("rms_norm_forward: rstd", rstd, DType::F32, {T});
  if (delta) {
    check_rows("rms_norm_forward: delta", delta, T, H);
    check_rows("rms_norm_forward: sum", sum, T, H);
    check_same_type("rms_norm_forward", delta, x);
    check_same_type("rms_norm_forward", sum, x);
  }
  return {T, H};
}

RmsNormSizes check_rms_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dout, const Tensor& x,
                                     const Tensor& weight, const Tensor& rstd) {
  const std::int64_t T = x.rows(), H = x.columns();
  check_rows("rms_norm_backward: x", x, T, H);
  check_rows("rms_norm_backward: dx", dx, T, H);
  check_rows("rms_norm_backward: dout", dout, T, H);
  check_same_type("rms_norm_backward", dx, x);
  check_same_type("rms_norm_backward", dout, x);
  check_tensor("rms_norm_backward: weight", weight, x.dtype, {H});
  check_tensor("rms_norm_backward: dweight", dweight, DType::F32, {H});
  check_tensor("rms_norm_backward: rstd", rstd, DType::F32, {T});
  return {T, H};
}

}  // namespace upcycle
