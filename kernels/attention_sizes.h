#pragma once
#include <cstdint>

#include "kernels/op_types.h"

// The sizes of an attention call, from its tensors, and the checks that need no data. Shared by all backends.
namespace upcycle::attention {

struct Sizes {
  std::int64_t Tq, Tk, N, K, G, D;  // G = N / K: query heads that share a key/value head
  std::int64_t Dp;                  // D padded to whole cache lines of floats: row length of the CPU's tiles
  float scale;                      // of the scores
};

// 0: 1 / sqrt(D).
float score_scale(float scale, std::int64_t D);

inline std::int64_t padded(std::int64_t n) { return (n + 15) / 16 * 16; }

// Throws Error unless the tensors fit together.
Sizes sizes_of(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t D,
               const PackedSequences& q_sequences, const PackedSequences& k_sequences, float scale);

// Checks the additional tensors of the backward.
void check_gradients(const Sizes& z, const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                     const Tensor& q);

}  // namespace upcycle::attention
