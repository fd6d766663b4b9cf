#include <algorithm>

#include "core/device.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/gemm_cache.h"
#include "kernels/cpu/thin_matmul.h"

namespace upcycle {

namespace {
constexpr std::int64_t kPieceProducts = std::int64_t{2} << 30;  // about 10 ms on one core in bf16
constexpr std::int64_t kLeastRows = 256;
}  // namespace

CpuOps::CpuOps() : gemms_(std::make_unique<GemmCache>()), isa_(effective_isa()) {}
CpuOps::~CpuOps() = default;
std::size_t CpuOps::matmul_primitives() const { return gemms_->size(); }

std::size_t CpuOps::matmul_workspace(const OpLimits&) { return GemmCache::workspace_bytes(); }

void CpuOps::matmul(Stream& stream, Workspace workspace, MatmulKind kind, const Tensor& c, const Tensor& a,
                    const Tensor& b, Store store) {
  GemmShape s = checked_matmul(kind, c, a, b, store);
  if (is_thin(isa_, s)) {
    const std::int64_t all[] = {0, s.m};
    thin_matmul(isa_, s, all, 0, c.data, a.data, b.data);
    return stream.poll();
  }
  const bool ta = kind == MatmulKind::TN;
  // Long products are cut over the rows of C, so that transfers can be advanced (poll) in between.
  const std::int64_t pieces =
      std::clamp<std::int64_t>(s.m * s.n * s.k / kPieceProducts, 1, std::max<std::int64_t>(1, s.m / kLeastRows));
  const std::int64_t rows = s.m;
  for (std::int64_t i = 0; i < pieces; ++i) {
    const std::int64_t begin = rows * i / pieces;
    s.m = rows * (i + 1) / pieces - begin;
    const std::int64_t end = begin + s.m;
    const Tensor part = ta ? a.slice_columns(begin, end) : a.slice_rows(begin, end);
    gemms_->run(workspace, s, c.slice_rows(begin, end).data, part.data, b.data);
    stream.poll();
  }
}

}  // namespace upcycle
