#include <algorithm>
#include <cstring>

#include "core/device.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/gemm_cache.h"
#include "kernels/cpu/thin_matmul.h"

namespace upcycle {
namespace {

// A segment is cut into pieces of at most this many rows, nearly equal, each a multiple of kExpertRowAlign. So only the
// multiples up to this need prepared primitives. Measured (H 512, F 1408, two threads of a Zen 5): 512 rows are as fast
// as 2,048, and preparing them all takes a tenth of a second.
constexpr std::int64_t kLongestPiece = 512;

struct Piece {
  std::int64_t begin, rows;
};

std::int64_t piece_count(std::int64_t rows) { return (rows + kLongestPiece - 1) / kLongestPiece; }

Piece piece_of(std::int64_t rows, std::int64_t index, std::int64_t count) {
  const std::int64_t units = rows / kExpertRowAlign;
  const std::int64_t begin = units * index / count, end = units * (index + 1) / count;
  return {begin * kExpertRowAlign, (end - begin) * kExpertRowAlign};
}

}  // namespace

void CpuOps::prepare(const OpLimits& limits) {
  if (limits.E == 0 || limits.moe_F == 0) return;
  for (std::int64_t rows = kExpertRowAlign; rows <= std::min(limits.R, kLongestPiece); rows += kExpertRowAlign)
    for (const MatmulKind kind : {MatmulKind::NT, MatmulKind::NN, MatmulKind::TN}) {
      gemms_->prepare(expert_shape(kind, rows, 2 * limits.moe_F, limits.H, limits.dtype));
      gemms_->prepare(expert_shape(kind, rows, limits.H, limits.moe_F, limits.dtype));
    }
}

std::size_t CpuOps::grouped_matmul_workspace(const OpLimits& limits) { return matmul_workspace(limits); }

void CpuOps::grouped_matmul(Stream& stream, Workspace workspace, MatmulKind kind, const Tensor& c, const Tensor& a,
                            const Tensor& b, std::span<const std::int64_t> offsets, Store store, std::int64_t align) {
  const bool weight_gradient = kind == MatmulKind::TN, padded = align % kExpertRowAlign == 0;
  GemmShape s = checked_grouped_matmul(kind, c, a, b, offsets, store, align);
  const std::int64_t E = (weight_gradient ? c : b).shape[0];
  if (!padded) {
    thin_matmul(isa_, s, offsets, b.row_stride, c.data, a.data, b.data);  // all segments of few rows
    stream.poll();
  }
  for (std::int64_t e = 0; e < E; ++e) {
    const std::int64_t begin = offsets[static_cast<std::size_t>(e)], end = offsets[static_cast<std::size_t>(e) + 1];
    std::int64_t rows = end - begin;
    if (!padded) {
      if (rows <= thin_rows(isa_, s.ab)) continue;
      rows = rows / kExpertRowAlign * kExpertRowAlign;  // those that have prepared primitives
      const std::int64_t rest[] = {begin + rows, end};
      thin_matmul(isa_, s, rest, 0, c.data, a.data, row_address(b, e));
    }
    if (rows == 0 && weight_gradient && store == Store::Overwrite)
      std::memset(row_address(c, e), 0, static_cast<std::size_t>(c.columns()) * size_of(c.dtype));
    // A sum over pieces must not be rounded to bf16 in between.
    const std::int64_t pieces = weight_gradient && c.dtype == DType::BF16 ? (rows > 0) : piece_count(rows);
    for (std::int64_t i = 0; i < pieces; ++i) {
      const Piece piece = piece_of(rows, i, pieces);
      const std::int64_t row = begin + piece.begin;
      if (weight_gradient) {
        s.k = piece.rows;
        s.store = i > 0 ? Store::Accumulate : store;
        gemms_->run(workspace, s, row_address(c, e), row_address(a, row), row_address(b, row));
      } else {
        s.m = piece.rows;
        gemms_->run(workspace, s, row_address(c, row), row_address(a, row), row_address(b, e));
      }
      stream.poll();
    }
  }
}

}  // namespace upcycle
