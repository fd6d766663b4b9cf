#include "kernels/checks/expert_rows.h"

#include "core/check.h"
#include "kernels/check.h"

namespace upcycle {

SortSizes check_sort_by_expert(const Tensor& counts, const Tensor& source, const Tensor& slot, const Tensor& experts,
                               std::int64_t align) {
  UPCYCLE_CHECK(experts.rank == 2, "sort_by_expert: experts {}, expected (T, k)", experts.describe());
  const SortSizes z{experts.shape[0], counts.rows(), experts.shape[1], source.rows()};
  const std::int64_t n = z.T * z.k;
  UPCYCLE_CHECK(align >= 1, "sort_by_expert: align {}, expected at least 1", align);
  UPCYCLE_CHECK(n + z.E * (align - 1) <= INT32_MAX && z.R <= INT32_MAX,
                "sort_by_expert: {} assignments in {} rows do not fit int32", n, z.R);
  UPCYCLE_CHECK(n <= z.R, "sort_by_expert: {} rows needed at least, source has {}", n, z.R);
  check_tensor("sort_by_expert: counts", counts, DType::I32, {z.E});
  check_tensor("sort_by_expert: source", source, DType::I32, {z.R});
  check_tensor("sort_by_expert: slot", slot, DType::I32, {z.T, z.k});
  check_tensor("sort_by_expert: experts", experts, DType::I32, {z.T, z.k});
  return z;
}

GatherSizes check_gather_rows(const Tensor& out, const Tensor& x, const Tensor& source) {
  UPCYCLE_CHECK(out.rank == 2 && x.rank == 2, "gather_rows: out {} and x {}, expected (R, H) and (., H)",
                out.describe(), x.describe());
  const GatherSizes z{out.shape[0], out.shape[1]};
  check_rows("gather_rows: out", out, z.R, z.H);
  check_rows("gather_rows: x", x, x.shape[0], z.H);
  check_tensor("gather_rows: source", source, DType::I32, {z.R});
  check_same_type("gather_rows", out, x);
  return z;
}

namespace {

CombineSizes check_combine(const Tensor& out, const Tensor& rows, const Tensor& slot) {
  UPCYCLE_CHECK(out.rank == 2 && rows.rank == 2 && slot.rank == 2,
                "combine_rows: out {}, rows {}, slot {}, expected (T, H), (R, H), (T, k)", out.describe(),
                rows.describe(), slot.describe());
  const CombineSizes z{out.shape[0], rows.shape[0], out.shape[1], slot.shape[1]};
  check_rows("combine_rows: out", out, z.T, z.H);
  check_rows("combine_rows: rows", rows, z.R, z.H);
  check_tensor("combine_rows: slot", slot, DType::I32, {z.T, z.k});
  return z;
}

}  // namespace

CombineSizes check_combine_rows(const Tensor& out, const Tensor& rows, const Tensor& slot, const Tensor& weights) {
  const CombineSizes z = check_combine(out, rows, slot);
  if (weights) check_tensor("combine_rows: weights", weights, DType::F32, {z.T, z.k});
  return z;
}

CombineSizes check_combine_rows_backward(const Tensor& drows, const Tensor& dweights, const Tensor& dout,
                                         const Tensor& rows, const Tensor& slot, const Tensor& weights) {
  const CombineSizes z = check_combine(dout, rows, slot);
  check_rows("combine_rows_backward: drows", drows, z.R, z.H);
  check_tensor("combine_rows_backward: dweights", dweights, DType::F32, {z.T, z.k});
  check_tensor("combine_rows_backward: weights", weights, DType::F32, {z.T, z.k});
  check_same_type("combine_rows_backward", drows, rows);
  return z;
}

}  // namespace upcycle
