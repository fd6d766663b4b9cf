#include "kernels/checks/rope.h"

#include "core/check.h"
#include "kernels/check.h"

namespace upcycle {

RopeSizes check_rope(const Tensor& x, std::int64_t D, const Tensor& table, const Tensor& positions) {
  const std::int64_t R = table.columns();
  UPCYCLE_CHECK(D > 0 && x.columns() % D == 0, "rope: {} does not hold heads of size {}", x.describe(), D);
  UPCYCLE_CHECK(R > 0 && R % 2 == 0 && R <= D, "rope: {} does not turn an even part of heads of size {}",
                table.describe(), D);
  check_rows("rope: x", x, x.rows(), x.columns());
  check_tensor("rope: table", table, DType::F32, {table.rows(), R});
  check_tensor("rope: positions", positions, DType::I32, {x.rows()});
  return {x.rows(), x.columns() / D, table.rows(), R};
}

}  // namespace upcycle
