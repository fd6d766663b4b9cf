#include "kernels/check.h"

#include <algorithm>

#include "core/check.h"

namespace upcycle {

void check_tensor(const char* scope, const Tensor& t, DType dtype, std::initializer_list<std::int64_t> shape) {
  const Tensor expected(nullptr, dtype, shape);
  UPCYCLE_CHECK(t.dtype == dtype && t.rank == expected.rank && t.shape == expected.shape, "{} is {}, expected {}",
                scope, t.describe(), expected.describe());
  UPCYCLE_CHECK(t.contiguous(), "{}: {} has strided rows, expected dense ones", scope, t.describe());
  UPCYCLE_CHECK(t.data != nullptr || t.size() == 0, "{}: {} has no memory", scope, t.describe());
}

void check_rows(const char* scope, const Tensor& t, std::int64_t rows, std::int64_t columns) {
  UPCYCLE_CHECK(t.dtype == DType::F32 || t.dtype == DType::BF16, "{} is {}, expected fp32 or bf16", scope,
                t.describe());
  UPCYCLE_CHECK(t.rank == 2 && t.shape[0] == rows && t.shape[1] == columns, "{} is {}, expected ({}, {})", scope,
                t.describe(), rows, columns);
  UPCYCLE_CHECK(t.data != nullptr || t.size() == 0, "{}: {} has no memory", scope, t.describe());
}

void check_flat(const char* scope, const Tensor& t, DType dtype, std::int64_t size) {
  UPCYCLE_CHECK(t.dtype == dtype && t.size() == size && t.contiguous(), "{} is {}, expected {} dense elements of {}",
                scope, t.describe(), size, name_of(dtype));
  UPCYCLE_CHECK(t.data != nullptr || size == 0, "{}: {} has no memory", scope, t.describe());
}

void check_same_type(const char* op, const Tensor& a, const Tensor& b) {
  UPCYCLE_CHECK(a.dtype == b.dtype, "{}: {} and {} differ in type", op, a.describe(), b.describe());
}

void check_workspace(const char* op, const Workspace& workspace, std::size_t needed) {
  UPCYCLE_CHECK(workspace.bytes >= needed, "{}: workspace of {} bytes, {} needed", op, workspace.bytes, needed);
}

void check_indices(const char* scope, const std::int32_t* indices, std::int64_t count, std::int64_t lowest,
                   std::int64_t end) {
  std::int32_t least = INT32_MAX, most = INT32_MIN;
  for (std::int64_t i = 0; i < count; ++i) {
    least = std::min(least, indices[i]);
    most = std::max(most, indices[i]);
  }
  UPCYCLE_CHECK(count == 0 || (least >= lowest && most < end), "{} holds indices from {} to {}, expected [{}, {})",
                scope, least, most, lowest, end);
}

}  // namespace upcycle
