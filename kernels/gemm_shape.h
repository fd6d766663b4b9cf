#pragma once
#include <cstdint>
#include <span>

#include "kernels/op_types.h"

// What the matrix products of all backends share: the description of one product, and the checks of its operands.
namespace upcycle {

// One product C (m, n) (= or +=) A B of row-major matrices with row strides lda, ldb, ldc (elements); see MatmulKind.
struct GemmShape {
  MatmulKind kind = MatmulKind::NT;
  Store store = Store::Overwrite;
  DType ab = DType::F32, c = DType::F32;  // A and B have one type
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t lda = 0, ldb = 0, ldc = 0;
  bool operator==(const GemmShape&) const = default;
};

// Row stride (elements) as GemmShape wants it: a single row has no meaningful stride.
inline std::int64_t leading_dimension(const Tensor& t) { return t.rows() > 1 ? t.row_stride : t.columns(); }

// The product that Ops::matmul computes; throws Error if its operands do not fit.
GemmShape checked_matmul(MatmulKind kind, const Tensor& c, const Tensor& a, const Tensor& b, Store store);

// The same for Ops::grouped_matmul, but the size that depends on the expert's rows (m, or k for TN) is left zero.
GemmShape checked_grouped_matmul(MatmulKind kind, const Tensor& c, const Tensor& a, const Tensor& b,
                                 std::span<const std::int64_t> offsets, Store store, std::int64_t align);

// The product of `rows` rows of one expert. out, in: the sizes of the expert's weight (out, in), whose gradient is TN.
inline GemmShape expert_shape(MatmulKind kind, std::int64_t rows, std::int64_t out, std::int64_t in, DType dtype) {
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

// Address of row `row` of t, of any type.
inline void* row_address(const Tensor& t, std::int64_t row) {
  return static_cast<char*>(t.data) + row * t.row_stride * static_cast<std::int64_t>(size_of(t.dtype));
}

}  // namespace upcycle
