#include "kernels/checks/head_norm.h"

#include "core/check.h"
#include "kernels/check.h"

namespace upcycle {
namespace {

// The sizes that x (T, heads * D) and numbers (T, heads) have in common.
HeadSizes sizes_of(const char* scope, const Tensor& x, const Tensor& numbers) {
  const std::int64_t T = x.rows(), heads = numbers.columns();
  check_tensor(scope, numbers, DType::F32, {T, heads});
  UPCYCLE_CHECK(heads > 0 && x.columns() % heads == 0, "{}: {} heads in rows of {}", scope, heads, x.describe());
  return {T, heads, x.columns() / heads};
}

void check_rows_as(const char* scope, const Tensor& t, const Tensor& x) {
  check_rows(scope, t, x.rows(), x.columns());
  check_same_type(scope, t, x);
}

void check_width(const char* op, std::int64_t width, std::int64_t D) {
  UPCYCLE_CHECK(width >= D, "{}: a mean over {} of at least {} elements", op, width, D);
}

}  // namespace

HeadSizes check_head_dots(const Tensor& dots, const Tensor& a, const Tensor& b, const Tensor& weight) {
  const HeadSizes z = sizes_of("head_dots: dots", a, dots);
  check_rows("head_dots: a", a, a.rows(), a.columns());
  check_rows_as("head_dots: b", b, a);
  if (weight) check_tensor("head_dots: weight", weight, a.dtype, {z.D});
  return z;
}

HeadSizes check_head_norm_forward(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& squares,
                                  std::int64_t width) {
  const HeadSizes z = sizes_of("head_norm_forward: squares", x, squares);
  check_rows("head_norm_forward: x", x, x.rows(), x.columns());
  check_rows_as("head_norm_forward: out", out, x);
  check_tensor("head_norm_forward: weight", weight, x.dtype, {z.D});
  check_width("head_norm_forward", width, z.D);
  return z;
}

HeadSizes check_head_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dout, const Tensor& x,
                                   const Tensor& weight, const Tensor& squares, const Tensor& dots,
                                   std::int64_t width) {
  const HeadSizes z = sizes_of("head_norm_backward: squares", x, squares);
  check_tensor("head_norm_backward: dots", dots, DType::F32, {z.T, z.heads});
  check_rows("head_norm_backward: x", x, x.rows(), x.columns());
  check_rows_as("head_norm_backward: dx", dx, x);
  check_rows_as("head_norm_backward: dout", dout, x);
  check_tensor("head_norm_backward: weight", weight, x.dtype, {z.D});
  check_tensor("head_norm_backward: dweight", dweight, DType::F32, {z.D});
  check_width("head_norm_backward", width, z.D);
  return z;
}

}  // namespace upcycle
