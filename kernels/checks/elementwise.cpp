#include "kernels/checks/elementwise.h"

#include "core/check.h"

namespace upcycle {

Extent check_elementwise(const char* op, std::initializer_list<const Tensor*> tensors) {
  const Tensor& first = **tensors.begin();
  bool dense = true;
  for (const Tensor* t : tensors) {
    UPCYCLE_CHECK(t->rank == first.rank && t->shape == first.shape, "{}: {} and {} differ in shape", op,
                  first.describe(), t->describe());
    UPCYCLE_CHECK(t->data != nullptr || t->size() == 0, "{}: {} has no memory", op, t->describe());
    dense = dense && t->contiguous();
  }
  if (first.size() == 0) return {};
  return dense ? Extent{1, first.size()} : Extent{first.shape[0], first.columns()};
}

Extent check_convert(const Tensor& out, const Tensor& x) {
  const auto known = [](DType t) { return t == DType::F32 || t == DType::BF16 || t == DType::F64; };
  UPCYCLE_CHECK(known(out.dtype) && known(x.dtype), "convert does not take {} from {}", out.describe(), x.describe());
  return check_elementwise("convert", {&out, &x});
}

Extent check_scale(const Tensor& out, const Tensor& x) {
  UPCYCLE_CHECK((x.dtype == DType::F32 || x.dtype == DType::BF16) && out.dtype == x.dtype,
                "scale does not take {} from {}: both fp32 or bf16", out.describe(), x.describe());
  return check_elementwise("scale", {&out, &x});
}

Extent check_add(const Tensor& out, const Tensor& a, const Tensor& b) {
  const auto of = [&](auto&& known) { return known(out.dtype) && known(a.dtype) && known(b.dtype); };
  UPCYCLE_CHECK(
      of([](DType t) { return t == DType::F64; }) || of([](DType t) { return t == DType::F32 || t == DType::BF16; }),
      "add does not take {} from {} and {}: all fp64, or each fp32 or bf16", out.describe(), a.describe(),
      b.describe());
  return check_elementwise("add", {&out, &a, &b});
}

}  // namespace upcycle
