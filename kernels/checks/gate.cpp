#include "kernels/checks/gate.h"

#include "kernels/check.h"

namespace upcycle {

GateSizes check_gate_rows_forward(const Tensor& rows, const Tensor& x, const Tensor& weight) {
  const std::int64_t T = x.rows(), F = rows.columns(), H = x.columns();
  check_rows("gate_rows: x", x, T, H);
  check_rows("gate_rows: rows", rows, T, F);
  check_same_type("gate_rows", rows, x);
  check_tensor("gate_rows: weight", weight, x.dtype, {H});
  return {T, F, H};
}

GateSizes check_gate_rows_backward(const Tensor& drows, const Tensor& dlogits, const Tensor& rows, const Tensor& x,
                                   const Tensor& weight) {
  const GateSizes s = check_gate_rows_forward(rows, x, weight);
  check_rows("gate_rows_backward: drows", drows, s.T, s.F);
  check_same_type("gate_rows_backward", drows, x);
  check_tensor("gate_rows_backward: dlogits", dlogits, DType::F32, {s.T});
  return s;
}

GateSizes check_gate_logits_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dlogits, const Tensor& x,
                                     const Tensor& weight) {
  const std::int64_t T = x.rows(), H = x.columns();
  check_rows("gate_logits_backward: x", x, T, H);
  check_rows("gate_logits_backward: dx", dx, T, H);
  check_same_type("gate_logits_backward", dx, x);
  check_tensor("gate_logits_backward: weight", weight, x.dtype, {H});
  check_tensor("gate_logits_backward: dweight", dweight, DType::F32, {H});
  check_tensor("gate_logits_backward: dlogits", dlogits, DType::F32, {T});
  return {T, 0, H};
}

}  // namespace upcycle
