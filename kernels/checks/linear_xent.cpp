#include "kernels/checks/linear_xent.h"

#include "core/check.h"
#include "kernels/check.h"

namespace upcycle {
namespace {

LinearXentSizes check_arguments(const char* op, const Tensor& x, const Tensor& weight, const Tensor& targets,
                                std::int64_t vocab_valid) {
  UPCYCLE_CHECK(x.rank == 2 && weight.rank == 2 && x.dtype == weight.dtype && x.shape[1] == weight.shape[1],
                "{}: x {} and weight {}, expected (T, H) and (V, H) of one type", op, x.describe(), weight.describe());
  const LinearXentSizes z{x.shape[0], weight.shape[0], x.shape[1]};
  check_rows(op, x, z.T, z.H);
  check_rows(op, weight, z.V, z.H);
  check_tensor(op, targets, DType::I32, {z.T});
  UPCYCLE_CHECK(vocab_valid >= 0 && vocab_valid <= z.V, "{}: vocab_valid {} of {} rows", op, vocab_valid, z.V);
  return z;
}

}  // namespace

LinearXentSizes check_linear_xent_stats(const Tensor& stats, const Tensor& x, const Tensor& weight,
                                        const Tensor& targets, std::int64_t vocab_valid) {
  const LinearXentSizes z = check_arguments("linear_xent_stats", x, weight, targets, vocab_valid);
  check_tensor("linear_xent_stats: stats", stats, DType::F32, {z.T, 3});
  return z;
}

LinearXentSizes check_linear_xent_backward(const Tensor& dx, const Tensor& dweight, const Tensor& x,
                                           const Tensor& weight, const Tensor& targets, const Tensor& lse,
                                           std::int64_t vocab_valid) {
  const LinearXentSizes z = check_arguments("linear_xent_backward", x, weight, targets, vocab_valid);
  check_tensor("linear_xent_backward: lse", lse, DType::F32, {z.T});
  check_rows("linear_xent_backward: dx", dx, z.T, z.H);
  check_rows("linear_xent_backward: dweight", dweight, z.V, z.H);
  UPCYCLE_CHECK(dweight.dtype == DType::F32 && (dx.dtype == DType::F32 || dx.dtype == x.dtype),
                "linear_xent_backward: dx {} and dweight {} of x {}", dx.describe(), dweight.describe(), x.describe());
  return z;
}

XentCombineSizes check_xent_combine(const Tensor& nll, const Tensor& lse, const Tensor& loss_sum, const Tensor& stats,
                                    const Tensor& targets) {
  UPCYCLE_CHECK(stats.rank == 3 && stats.shape[2] == 3, "xent_combine: stats is {}, expected (ranks, T, 3)",
                stats.describe());
  const XentCombineSizes z{stats.shape[0], stats.shape[1]};
  check_tensor("xent_combine: stats", stats, DType::F32, {z.ranks, z.T, 3});
  check_tensor("xent_combine: nll", nll, DType::F32, {z.T});
  check_tensor("xent_combine: lse", lse, DType::F32, {z.T});
  check_tensor("xent_combine: targets", targets, DType::I32, {z.T});
  check_flat("xent_combine: loss_sum", loss_sum, DType::F64, 1);
  return z;
}

}  // namespace upcycle
