#pragma once
#include <algorithm>
#include <cstdint>
#include <span>

#include "kernels/cpu/gemm_cache.h"
#include "kernels/gemm_shape.h"

// Products C (m, n) = A (m, k) B (n, k)^T of few rows, as decoding has them, where the work is to read B. oneDNN first
// copies B into another order, which costs more than the product; here B is read once, as it lies, at memory's speed.
// The bits of an element of C depend on its row of A and its row of B alone: not on m, n or the threads.
namespace upcycle {

// More rows are faster with oneDNN (measured on a Zen 5, n and k from 768 to 4096).
constexpr std::int64_t thin_rows(CpuIsa isa, DType ab) {
  return ab == DType::BF16 && isa == CpuIsa::Avx512Bf16 ? 256 : 96;
}

// Whether Ops::matmul computes the product so. Training has more rows in a pass, or, in tests, small matrices: its sums
// keep their order.
constexpr bool is_thin(CpuIsa isa, const GemmShape& s) {
  constexpr std::int64_t kLeastWeights = 1 << 16, kMostRows = 128;
  return s.kind == MatmulKind::NT && s.store == Store::Overwrite && s.m <= std::min(kMostRows, thin_rows(isa, s.ab)) &&
         s.n * s.k >= kLeastWeights;
}

// One product per segment: rows [offsets[e], offsets[e + 1]) of A and C (s.m is not read) with matrix e of B, which are
// `matrix_stride` elements apart. Segments of more than thin_rows rows are left out.
void thin_matmul(CpuIsa isa, const GemmShape& s, std::span<const std::int64_t> offsets, std::int64_t matrix_stride,
                 void* c, const void* a, const void* b);

}  // namespace upcycle
