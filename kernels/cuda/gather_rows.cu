#include "kernels/checks/expert_rows.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/rows.cuh"

namespace upcycle {
namespace {

using namespace cuda;

// Rows are copied as bits, one Unit per thread.
template <class Unit>
__global__ void gather(RowGrid grid, Unit* out, std::int64_t out_stride, const Unit* x, std::int64_t x_stride,
                       const int* source) {
  const Place at = place_in(grid);
  if (!at.inside) return;
  const int from = source[at.row];
  Unit unit{};
  if (from >= 0) unit = x[from * x_stride + at.group];
  out[at.row * out_stride + at.group] = unit;
}

template <class Unit>
void launch_gather(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& source) {
  const auto units = [&](std::int64_t elements) {
    return elements * static_cast<std::int64_t>(size_of(x.dtype)) / static_cast<std::int64_t>(sizeof(Unit));
  };
  launch_rows("gather_rows", stream, out.rows(), units(out.columns()), gather<Unit>, static_cast<Unit*>(out.data),
              units(out.row_stride), static_cast<const Unit*>(x.data), units(x.row_stride), source.as<std::int32_t>());
}

}  // namespace

void CudaOps::gather_rows(Stream& stream, const Tensor& out, const Tensor& x, const Tensor& source) {
  check_gather_rows(out, x, source);
  if (whole_vectors(out) && whole_vectors(x)) {
    launch_gather<uint4>(stream, out, x, source);
  } else if (x.dtype == DType::F32) {
    launch_gather<unsigned>(stream, out, x, source);
  } else {
    launch_gather<unsigned short>(stream, out, x, source);
  }
}

}  // namespace upcycle
