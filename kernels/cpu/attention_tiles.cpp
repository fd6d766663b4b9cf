#include "kernels/cpu/attention_tiles.h"

#include <algorithm>

#include "core/check.h"

namespace upcycle::attention {
namespace {

void check_offsets(const char* scope, const PackedSequences& sequences, std::int64_t rows) {
  const std::int32_t* offsets = sequences.offsets.as<std::int32_t>();
  for (std::int64_t i = 0; i < sequences.count; ++i) {
    UPCYCLE_CHECK(offsets[i] <= offsets[i + 1], "{}: sequence {} begins at row {} and ends at row {}", scope, i,
                  offsets[i], offsets[i + 1]);
  }
  UPCYCLE_CHECK(offsets[0] >= 0 && offsets[sequences.count] <= rows, "{}: sequences span rows [{}, {}) of {}", scope,
                offsets[0], offsets[sequences.count], rows);
}

// Exchanges the off-diagonal quarters of all 2S x 2S blocks; for S = 1, 2, 4 ... that is a transposition.
template <int S>
void exchange_quarters(Vec* rows) {
  IntVec low, high;
  for (int j = 0; j < kLanes; ++j) {
    low[j] = (j & S) != 0 ? kLanes + j - S : j;
    high[j] = (j & S) != 0 ? kLanes + j : j + S;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & S) != 0) continue;
    const Vec a = rows[i], b = rows[i + S];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + S] = __builtin_shuffle(a, b, high);
  }
}

}  // namespace

Sizes check_sizes(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                  std::int64_t D, const PackedSequences& q_sequences, const PackedSequences& k_sequences, float scale) {
  const Sizes z = sizes_of(out, lse, q, k, v, D, q_sequences, k_sequences, scale);
  check_offsets("attention: q_sequences", q_sequences, z.Tq);
  check_offsets("attention: k_sequences", k_sequences, z.Tk);
  return z;
}

Span span_of(std::int64_t sequence, const PackedSequences& q_sequences, const PackedSequences& k_sequences) {
  const std::int32_t* q = q_sequences.offsets.as<std::int32_t>() + sequence;
  const std::int32_t* k = k_sequences.offsets.as<std::int32_t>() + sequence;
  return {q[0], q[1] - q[0], k[0], k[1] - k[0]};
}

std::int64_t longest_of(const PackedSequences& sequences) {
  const std::int32_t* offsets = sequences.offsets.as<std::int32_t>();
  std::int64_t longest = 0;
  for (std::int64_t i = 0; i < sequences.count; ++i) {
    longest = std::max<std::int64_t>(longest, offsets[i + 1] - offsets[i]);
  }
  return longest;
}

void transpose_keys(float* to, const float* from, std::int64_t Dp) {
  for (std::int64_t d = 0; d < Dp; d += kLanes) {
    for (int j = 0; j < kKeys; j += kLanes) {
      Vec rows[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) rows[i] = load_vec(from + (j + i) * Dp + d);
      exchange_quarters<1>(rows);
      exchange_quarters<2>(rows);
      if constexpr (kLanes > 4) exchange_quarters<4>(rows);
      if constexpr (kLanes > 8) exchange_quarters<8>(rows);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store_vec(to + (d + i) * kKeys + j, rows[i]);
    }
  }
}

}  // namespace upcycle::attention
