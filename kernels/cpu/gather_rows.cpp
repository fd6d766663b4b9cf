#include <cstring>

#include "kernels/check.h"
#include "kernels/checks/expert_rows.h"
#include "kernels/cpu/cpu_ops.h"

namespace upcycle {
namespace {
constexpr std::int64_t kParallelFrom = 1 << 17;  // bytes; below, waking threads costs more than the work
}

void CpuOps::gather_rows(Stream&, const Tensor& out, const Tensor& x, const Tensor& source) {
  const GatherSizes sizes = check_gather_rows(out, x, source);
  const std::int64_t R = sizes.R, H = sizes.H;  // clang takes no bindings into parallel regions
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
