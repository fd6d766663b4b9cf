#include <algorithm>
#include <cstring>

#include "kernels/cpu/gemm_cache.h"

namespace upcycle {
namespace {

// A segment is cut into pieces of at most this many rows, nearly equal, each a multiple of kExpertRowAlign. So the
// ladder of prepared row counts is every multiple up to here. Measured (H 512, F 1408, two threads of a Zen 5): 512
// rows reach the speed of 2,048, and making the whole ladder takes a tenth of a second.
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

// The product of `rows` rows of one expert. out, in: the sizes of a weight (out, in); its gradient is TN.
GemmShape expert_shape(MatmulKind kind, std::int64_t rows, std::int64_t out, std::int64_t in, DType dtype) {
  switch (kind) {
    case MatmulKind::NT:
      return {kind, Store::Overwrite, dtype, dtype, rows, out, in, in, in, out};
    case MatmulKind::NN:
      return {kind, Store::Overwrite, dtype, dtype, rows, in, out, out, in, in};
    case MatmulKind::TN:
      break;
  }
  return {kind, Store::Accumulate, dtype, DType::F32, out, in, rows, out, in, in};
}

void* at(const Tensor& t, std::int64_t row) {
  return static_cast<char*>(t.data) + row * t.row_stride * static_cast<std::int64_t>(size_of(t.dtype));
}

}  // namespace

void CpuOps::prepare(const OpLimits& limits) {
  if (limits.E == 0 || limits.moe_F == 0) return;
  for (std::int64_t rows = kExpertRowAlign; rows <= std::min(limits.R, kLongestPiece); rows += kExpertRowAlign)
    for (const MatmulKind kind : {MatmulKind::NT, MatmulKind::NN, MatmulKind::TN}) {
      matmuls_->gemms.prepare(expert_shape(kind, rows, 2 * limits.moe_F, limits.H, limits.dtype));
      matmuls_->gemms.prepare(expert_shape(kind, rows, limits.H, limits.moe_F, limits.dtype));
    }
}

void CpuOps::grouped_matmul(Stream& stream, Workspace workspace, MatmulKind kind, const Tensor& c, const Tensor& a,
                            const Tensor& b, std::span<const std::int64_t> offsets, Store store) {
  const bool weight_gradient = kind == MatmulKind::TN;
  const Tensor& weight = weight_gradient ? c : b;  // (E, ., .)
  const Tensor& other = weight_gradient ? b : c;   // the second operand with rows
  UPCYCLE_CHECK(a.rank == 2 && other.rank == 2 && weight.rank == 3 && a.shape[0] == other.shape[0],
                "grouped product of {}, {} and {}", c.describe(), a.describe(), b.describe());
  const bool fits = kind == MatmulKind::NT   ? b.shape[2] == a.shape[1] && b.shape[1] == c.shape[1]
                    : kind == MatmulKind::NN ? b.shape[1] == a.shape[1] && b.shape[2] == c.shape[1]
                                             : c.shape[1] == a.shape[1] && c.shape[2] == b.shape[1];
  UPCYCLE_CHECK(fits, "sizes do not fit: {} = {} x {}", c.describe(), a.describe(), b.describe());
  check_product_types(c, a, b, store);
  const std::int64_t E = weight.shape[0];
  UPCYCLE_CHECK(static_cast<std::int64_t>(offsets.size()) == E + 1, "{} offsets for {} experts", offsets.size(), E);
  for (std::size_t e = 0; e < offsets.size(); ++e)
    UPCYCLE_CHECK(
        offsets[e] % kExpertRowAlign == 0 && offsets[e] <= a.shape[0] && offsets[e] >= (e ? offsets[e - 1] : 0),
        "offset {} is {}: rising multiples of {} up to {} expected", e, offsets[e], kExpertRowAlign, a.shape[0]);

  GemmShape s{.kind = kind, .store = store, .ab = a.dtype, .c = c.dtype};
  s.lda = leading_dimension(a);
  s.ldb = weight_gradient ? leading_dimension(b) : b.shape[2];
  s.ldc = weight_gradient ? c.shape[2] : leading_dimension(c);
  for (std::int64_t e = 0; e < E; ++e) {
    const std::int64_t begin = offsets[static_cast<std::size_t>(e)];
    const std::int64_t rows = offsets[static_cast<std::size_t>(e) + 1] - begin;
    if (rows == 0 && weight_gradient && store == Store::Overwrite)
      std::memset(at(c, e), 0, static_cast<std::size_t>(c.columns()) * size_of(c.dtype));
    // A sum over pieces must not pass through bf16.
    const std::int64_t pieces = weight_gradient && c.dtype == DType::BF16 ? (rows > 0) : piece_count(rows);
    for (std::int64_t i = 0; i < pieces; ++i) {
      const Piece piece = piece_of(rows, i, pieces);
      const std::int64_t row = begin + piece.begin;
      if (weight_gradient) {
        s.m = a.shape[1], s.n = b.shape[1], s.k = piece.rows;
        s.store = i > 0 ? Store::Accumulate : store;
        matmuls_->gemms.run(workspace, s, at(c, e), at(a, row), at(b, row));
      } else {
        s.m = piece.rows, s.n = c.shape[1], s.k = a.shape[1];
        matmuls_->gemms.run(workspace, s, at(c, row), at(a, row), at(b, e));
      }
      stream.poll();
    }
  }
}

}  // namespace upcycle
