#include "kernels/gemm_shape.h"

#include "core/check.h"

namespace upcycle {
namespace {

// Throws Error unless A and B have one type, fp32 or bf16, and C is fp32 or, to be overwritten, of their type.
void check_product_types(const Tensor& c, const Tensor& a, const Tensor& b, Store store) {
  UPCYCLE_CHECK(a.dtype == b.dtype && (a.dtype == DType::F32 || a.dtype == DType::BF16),
                "both factors fp32 or both bf16 expected, found {} and {}", a.describe(), b.describe());
  UPCYCLE_CHECK(c.dtype == DType::F32 || (c.dtype == a.dtype && store == Store::Overwrite),
                "a product of {} can not be {} {}", name_of(a.dtype),
                store == Store::Overwrite ? "stored in" : "added to", c.describe());
}

}  // namespace

GemmShape checked_matmul(MatmulKind kind, const Tensor& c, const Tensor& a, const Tensor& b, Store store) {
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
  return s;
}

GemmShape checked_grouped_matmul(MatmulKind kind, const Tensor& c, const Tensor& a, const Tensor& b,
                                 std::span<const std::int64_t> offsets, Store store, std::int64_t align) {
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
  const bool whole = align > 0 && align % kExpertRowAlign == 0;
  UPCYCLE_CHECK(whole || (align > 0 && kind == MatmulKind::NT && store == Store::Overwrite),
                "segments aligned to {} rows: {} expected, or NT and Overwrite", align, kExpertRowAlign);
  for (std::size_t e = 0; e < offsets.size(); ++e)
    UPCYCLE_CHECK(offsets[e] % align == 0 && offsets[e] <= a.shape[0] && offsets[e] >= (e ? offsets[e - 1] : 0),
                  "offset {} is {}: rising multiples of {} up to {} expected", e, offsets[e], align, a.shape[0]);
  GemmShape s{.kind = kind, .store = store, .ab = a.dtype, .c = c.dtype};
  s.m = weight_gradient ? a.shape[1] : 0;
  s.n = weight_gradient ? b.shape[1] : c.shape[1];
  s.k = weight_gradient ? 0 : a.shape[1];
  s.lda = leading_dimension(a);
  s.ldb = weight_gradient ? leading_dimension(b) : b.shape[2];
  s.ldc = weight_gradient ? c.shape[2] : leading_dimension(c);
  return s;
}

}  // namespace upcycle
