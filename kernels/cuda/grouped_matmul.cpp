#include <algorithm>
#include <array>
#include <bit>

#include "core/cuda_error.h"
#include "core/device.h"
#include "kernels/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/gemms.h"

// One product per expert, on streams that fork from the op's stream and join it by events, so that small experts share
// the GPU. A CUTLASS grouped kernel (one launch for all experts, shapes on the device) could replace the loop in
// grouped_matmul below if measurements on a GPU show a gain.
namespace upcycle {

using namespace cuda;
namespace {

// An expert with more rows takes several products, of this many rows each and then of the rest: so every product in a
// step has a row count (a multiple of kExpertRowAlign up to this) whose algorithm `prepare` has chosen.
constexpr std::int64_t kMostRows = std::int64_t{1} << 15;

// Alignment of all experts' operands, so that the algorithm does not depend on which expert has how many rows. Segments
// begin at multiples of 16 rows, so only the tensors' addresses and the experts' matrices matter.
std::uint32_t alignment_of(std::int64_t expert_bytes, std::uint32_t others) {
  return 1u << std::countr_zero(static_cast<std::uint64_t>(expert_bytes) | others);
}
std::int64_t row_bytes(const Tensor& t) { return t.row_stride * static_cast<std::int64_t>(size_of(t.dtype)); }

// Each expert goes to the lane with the fewest rows so far: the same counts give the same lanes.
struct Deal {
  std::array<std::int64_t, kExpertLanes> rows{};
  int next(std::int64_t more) {
    const auto least = std::min_element(rows.begin(), rows.end());
    *least += more;
    return static_cast<int>(least - rows.begin());
  }
};

}  // namespace

void CudaOps::prepare(const OpLimits& limits) {
  if (limits.E == 0 || limits.moe_F == 0) return;
  const auto choose = [&](MatmulKind kind, std::int64_t rows, std::int64_t out, std::int64_t in) {
    const GemmShape s = expert_shape(kind, rows, out, in, limits.dtype);
    const auto weight_size = static_cast<std::int64_t>(size_of(kind == MatmulKind::TN ? s.c : s.ab));
    gemms_->prepare({s, alignment_of(out * in * weight_size, Gemms::kBestAlignment), kLaneWorkspaceBytes});
  };
  for (std::int64_t rows = kExpertRowAlign; rows <= std::min(limits.R, kMostRows); rows += kExpertRowAlign)
    for (const MatmulKind kind : {MatmulKind::NT, MatmulKind::NN, MatmulKind::TN}) {
      choose(kind, rows, 2 * limits.moe_F, limits.H);
      choose(kind, rows, limits.H, limits.moe_F);
    }
}

void CudaOps::grouped_matmul(Stream& stream, Workspace workspace, MatmulKind kind, const Tensor& c, const Tensor& a,
                             const Tensor& b, std::span<const std::int64_t> offsets, Store store, std::int64_t align) {
  const GemmShape shape = checked_grouped_matmul(kind, c, a, b, offsets, store, align);
  UPCYCLE_CHECK(align % kExpertRowAlign == 0, "segments aligned to {} rows, {} expected", align, kExpertRowAlign);
  check_workspace("grouped_matmul", workspace, kGemmWorkspaceBytes);
  const bool weight_gradient = kind == MatmulKind::TN;
  const auto main = static_cast<cudaStream_t>(stream.native());
  const Tensor& matrices = weight_gradient ? c : b;  // (E, ., .)
  Gemms::Key key{shape, alignment_of(row_bytes(matrices), Gemms::alignment_of({c.data, a.data, b.data})),
                 kLaneWorkspaceBytes};

  const auto multiply = [&](int lane, std::int64_t expert, std::int64_t row, std::int64_t rows) {
    void* const part = static_cast<char*>(workspace.data) + static_cast<std::size_t>(lane) * kLaneWorkspaceBytes;
    GemmShape& s = key.shape;
    s.store = store;
    // Partial products of one sum may only be added in fp32.
    const std::int64_t most = weight_gradient && s.c != DType::F32 ? rows : kMostRows;
    for (const std::int64_t end = row + rows; row < end; row += most) {
      (weight_gradient ? s.k : s.m) = std::min(end - row, most);
      if (weight_gradient)
        gemms_->run(lanes_->stream(main, lane), part, key, row_address(c, expert), row_address(a, row),
                    row_address(b, row));
      else
        gemms_->run(lanes_->stream(main, lane), part, key, row_address(c, row), row_address(a, row),
                    row_address(b, expert));
      if (weight_gradient) s.store = Store::Accumulate;  // the rest of the rows adds to the first ones' product
    }
  };
  const auto clear = [&](std::int64_t expert, std::int64_t row, std::int64_t rows) {
    if (weight_gradient)  // an expert's matrix is dense
      UPCYCLE_CUDA(
          cudaMemsetAsync(row_address(c, expert), 0, static_cast<std::size_t>(c.columns()) * size_of(c.dtype), main));
    else
      fill(stream, c.slice_rows(row, row + rows), 0);
  };

  if (shape.n == 0 || (weight_gradient && shape.m == 0)) return;
  const bool empty = !weight_gradient && shape.k == 0;
  const auto E = static_cast<std::int64_t>(offsets.size()) - 1;
  const auto rows_of = [&](std::int64_t e) {
    return offsets[static_cast<std::size_t>(e) + 1] - offsets[static_cast<std::size_t>(e)];
  };
  int busy = 0;  // experts with a product
  for (std::int64_t e = 0; e < E; ++e) busy += rows_of(e) > 0 && !empty;
  const int lanes = std::min(busy, kExpertLanes);
  lanes_->fork(main, lanes);
  Deal deal;
  for (std::int64_t e = 0; e < E; ++e) {
    const std::int64_t row = offsets[static_cast<std::size_t>(e)], rows = rows_of(e);
    if (rows > 0 && !empty)
      multiply(deal.next(rows), e, row, rows);
    else if (store == Store::Overwrite && (weight_gradient || rows > 0))
      clear(e, row, rows);
  }
  lanes_->join(main, lanes);
}

}  // namespace upcycle
