#include <algorithm>

#include "kernels/cpu/gemm_cache.h"

namespace upcycle {

namespace {
constexpr std::int64_t kPieceProducts = std::int64_t{2} << 30;  // some 10 ms of a core in bf16
constexpr std::int64_t kLeastRows = 256;
}  // namespace

CpuOps::CpuOps() : matmuls_(std::make_unique<MatmulCache>()) {}
CpuOps::~CpuOps() = default;
std::size_t CpuOps::matmul_primitives() const { return matmuls_->gemms.size(); }

std::size_t matmul_workspace(const OpLimits&) { return GemmCache::workspace_bytes(); }

void CpuOps::matmul(Stream& stream, Workspace workspace, MatmulKind kind, const Tensor& c, const Tensor& a,
                    const Tensor& b, Store store) {
  const auto fits = [&](int rank) { return a.rank == rank && b.rank == rank && c.rank == rank; };
  UPCYCLE_CHECK(fits(2), "matrices expected, found {}, {} and {}", c.describe(), a.describe(), b.describe());
  const bool ta = kind == MatmulKind::TN, tb = kind == MatmulKind::NT;
  GemmShape s{.kind = kind, .store = store, .ab = a.dtype, .c = c.dtype};
  s.m = ta ? a.shape[1] : a.shape[0];
  s.k = ta ? a.shape[0] : a.shape[1];
  s.n = tb ? b.shape[0] : b.shape[1];
  UPCYCLE_CHECK(s.k == (tb ? b.shape[1] : b.shape[0]) && c.shape[0] == s.m && c.shape[1] == s.n,
                "sizes do not fit: {} = {} x {} ({})", c.describe(), a.describe(), b.describe(),
                kind == MatmulKind::NT   ? "NT"
                : kind == MatmulKind::NN ? "NN"
                                         : "TN");
  check_product_types(c, a, b, store);
  s.lda = leading_dimension(a);
  s.ldb = leading_dimension(b);
  s.ldc = leading_dimension(c);
  // Long products are cut over the rows of C, so that transfers under way are moved in between.
  const std::int64_t pieces =
      std::clamp<std::int64_t>(s.m * s.n * s.k / kPieceProducts, 1, std::max<std::int64_t>(1, s.m / kLeastRows));
  const std::int64_t rows = s.m;
  for (std::int64_t i = 0; i < pieces; ++i) {
    const std::int64_t begin = rows * i / pieces;
    s.m = rows * (i + 1) / pieces - begin;
    const std::int64_t end = begin + s.m;
    const Tensor part = ta ? a.slice_columns(begin, end) : a.slice_rows(begin, end);
    matmuls_->gemms.run(workspace, s, c.slice_rows(begin, end).data, part.data, b.data);
    stream.poll();
  }
}

void check_product_types(const Tensor& c, const Tensor& a, const Tensor& b, Store store) {
  UPCYCLE_CHECK(a.dtype == b.dtype && (a.dtype == DType::F32 || a.dtype == DType::BF16),
                "both factors fp32 or both bf16 expected, found {} and {}", a.describe(), b.describe());
  UPCYCLE_CHECK(c.dtype == DType::F32 || (c.dtype == a.dtype && store == Store::Overwrite),
                "a product of {} can not be {} {}", name_of(a.dtype),
                store == Store::Overwrite ? "stored in" : "added to", c.describe());
}

}  // namespace upcycle
