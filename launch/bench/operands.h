#pragma once
#include <vector>

#include "core/arena.h"
#include "core/config/config.h"
#include "launch/backend.h"

namespace upcycle {

// The tensors that `bench ops` calls ops with, at one microbatch's shapes. Letters: kernels/ops.h.
struct Operands {
  std::int64_t T, H, F, N, K, D, V, E, k, moe_F, R;
  Tensor x, y, norm_weight, rstd, fp32_h;  // (T, H), (T, H), (H), (T), fp32 (H)
  Tensor qkv, qkv_weight, qkv_grad, dqkv, attention, lse, positions, rope_table, offsets;
  Tensor gate_up, dgate_up, mlp;                                    // (T, 2F), (T, 2F), (T, F)
  Tensor vocabulary, dvocabulary, tokens, targets, stats, row_lse;  // (V, H), fp32 (V, H), (T), (T), (T, 3), (T)
  Tensor logits, probs, experts, weights, dweights, router_lse, counts, source, slot;
  Tensor rows, drows, expert_gate_up, expert_weight;
  Tensor param, master, m, v, grad, scale, sum;  // (V H)
  // For ops that only some families have. Gates are open, so that what they multiply stays as it is.
  Tensor bias, dbias, squares, dots, head_weight, head_grad, gate_x, gate_weight;  // (columns of qkv), fp32; fp32 (T,
                                                                                   // N); (D), fp32; (T, H), (H)
  Tensor scratch;
};

Operands sizes_of(const Config& config);  // no tensors yet
OpLimits limits_of(const Config& config);
void take_all(Arena& arena, Operands& operands, const Config& config, const Ops& ops);
// Fills with random normal numbers and uniform tokens, so that experts get uneven shares.
void fill_all(const Backend& backend, Operands& operands, std::int64_t S);

}  // namespace upcycle
