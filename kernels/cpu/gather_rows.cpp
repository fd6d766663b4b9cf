#include <cstring>

#include "core/check.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace upcycle {
namespace {
constexpr std::int64_t kParallelFrom = 1 << 15;  // bytes
}

void CpuOps::gather_rows(Stream&, const Tensor& out, const Tensor& x, const Tensor& source) {
  UPCYCLE_CHECK(out.rank == 2 && x.rank == 2, "gather_rows: out {} and x {}, expected (R, H) and (., H)",
                out.describe(), x.describe());
  const std::int64_t R = out.shape[0], H = out.shape[1];
  check_rows("gather_rows: out", out, R, H);
  check_rows("gather_rows: x", x, x.shape[0], H);
  check_tensor("gather_rows: source", source, DType::I32, {R});
  UPCYCLE_CHECK(out.dtype == x.dtype, "gather_rows: out is {}, x is {}", out.describe(), x.describe());
  const std::int32_t* from = source.as<std::int32_t>();
  check_indices("gather_rows: source", from, R, INT32_MIN, x.shape[0]);
  if (out.size() == 0) return;

  const std::int64_t size = static_cast<std::int64_t>(size_of(x.dtype));
  const std::int64_t row = H * size, out_step = out.row_stride * size, x_step = x.row_stride * size;
  char* to = static_cast<char*>(out.data);
  const char* in = static_cast<const char*>(x.data);
#pragma omp parallel for schedule(static) if (R * row >= kParallelFrom)
  for (std::int64_t r = 0; r < R; ++r) {
    if (from[r] < 0)
      std::memset(to + r * out_step, 0, static_cast<std::size_t>(row));
    else
      std::memcpy(to + r * out_step, in + from[r] * x_step, static_cast<std::size_t>(row));
  }
}

}  // namespace upcycle
