#pragma once
#include <vector>

#include "core/arena.h"
#include "kernels/ops.h"
#include "parallel/model/sizes.h"

// What a pass keeps, laid out once in an arena before the first step. T_local = T / tp: under sequence parallelism
// norms and residuals hold this rank's contiguous rows of T (arXiv 2205.05198).
namespace upcycle {

enum class Recompute : std::uint8_t { None, Full };

struct PassShape {
  std::int64_t B = 1, S = 1;   // sequences and their length; T = B * S rows, divisible by tp
  std::int64_t positions = 0;  // of the RoPE table; 0: S (a decoding pass needs its cache's)
  bool training = true;        // false: forward only, one layer's activations are kept
  Recompute recompute = Recompute::None;
  DType dtype = DType::F32;
  double imbalance_factor = 2;       // expert buffers hold this multiple of the even share (ep > 1)
  std::int64_t dispatch_chunks = 1;  // see moe_buffers().chunks
  std::int64_t T() const { return B * S; }
};

struct MoeState {
  // Kept under recompute: experts are never chosen twice, and neither is it planned twice how their rows travel.
  Tensor experts;               // i32 (T_local, k)
  Tensor stats;                 // f64 (2E + 2), see Ops::router_stats; summed over tp
  Tensor expert_scale;          // fp32 (E)
  Tensor counts, source, slot;  // i32 (chunks, E), (slots), (tokens, k)
  Tensor pad, unpad;            // i32 (R), (received): received row of an expert row or -1, and back (ep > 1)
  // Of the pass under way.
  Tensor probs, weights, lse;  // fp32 (T_local, E), (T_local, k), (T_local)
  Tensor input, gate_up, act;  // (R, H), (R, 2 moe_F_local), (R, moe_F_local): expert rows
  Tensor output;               // (slots, H): experts' outputs, back in slot layout
};

struct LayerState {
  Tensor x, x_mid;                        // (T_local, H): the residual entering attention, and entering the MLP
  Tensor attention_rstd, attention_norm;  // fp32 (T_local), (T_local, H)
  Tensor qkv, attention, lse;             // (T, qkv_local) rotated, (T, N_local D), fp32 (N_local, T)
  Tensor mlp_rstd, mlp_norm;              // fp32 (T_local), (T_local, H)
  Tensor gate_up, act;                    // (T, 2 F_local), (T, F_local): dense MLP or shared expert
  MoeState moe;
};

// Buffers of one layer's work at a time; attention's, the MLP's and the experts' share memory.
struct Scratch {
  Tensor gathered, partial;  // (T, H): sequence-parallel all-gather and the sum before reduce-scatter (tp > 1)
  Tensor branch;             // (T_local, H): what attention or the MLP adds to the residual
  Tensor dx, dnorm;          // (T_local, H): gradient of the residual, and of a norm's output
  Tensor dgathered;          // (T, H) (tp > 1)
  Tensor dqkv, dattention;   // (T, qkv_local), (T, N_local D)
  Tensor dgate_up, dact;     // (T, 2 F_local), (T, F_local)
  Tensor router_logits, router_dlogits, dweights;  // fp32 (T_local, E), (T_local, E), (T_local, k)
  Tensor router_x, router_w;                       // fp32 (T_local, H), (E, H): the router works in fp32
  Tensor expert_rows;                              // (R, H): outputs on their way back, and their gradients
  Tensor expert_dgate_up, expert_dact;             // (R, 2 moe_F_local), (R, moe_F_local)
  Tensor slots, received;                          // (slots, H), (received, H) (ep > 1)
  Tensor all_counts;                               // i32 (ep, chunks, E) (ep > 1)
  Tensor all_experts, all_weights, all_dweights;   // i32, fp32, fp32 (T, k) (etp > 1)
  Tensor logits_row;                               // fp32 (1, V_local), inference only: the next token's
  Tensor workspace;                                // for ops
};

struct Activations {
  std::vector<LayerState> layers;
  Tensor x_last, final_rstd, final_norm;  // (T_local, H), fp32 (T_local), (T_local, H)
  Tensor xent_stats, nll, lse;            // fp32 (tp, T, 3), (T), (T)
  // f64 (1 + 4L), summed over microbatches: what a step reports, in one piece so that it travels in one. First the loss
  // (loss_sum, f64 (1)), then what Ops::router_losses adds of each layer (zeros where it is dense).
  Tensor step_sums, loss_sum;
  Scratch scratch;

  Tensor metrics_of(std::int64_t layer) const { return step_sums.slice_rows(1 + 4 * layer, 5 + 4 * layer); }
};

// Rows of an MoE layer's buffers on this rank.
struct MoeBuffers {
  std::int64_t tokens = 0;    // that this rank routes to experts: T_local, or T when etp = tp
  std::int64_t slots = 0;     // slot layout (dispatch.h)
  std::int64_t received = 0;  // from the ep group; 0 when ep = 1
  std::int64_t chunks = 1;    // that the tokens are cut in where they travel (ep > 1): see dispatch.h
  std::int64_t rows = 0;      // R, expert rows: with each local expert's padding, a chunk
};
MoeBuffers moe_buffers(const Sizes& sizes, const Layout& layout, const PassShape& pass);

OpLimits op_limits(const Sizes& sizes, const PassShape& pass, const Layout& layout);

// `workspace_bytes`: Ops::workspace_bytes of op_limits.
Activations layout_activations(Arena& arena, const ModelConfig& model, const Sizes& sizes, const Layout& layout,
                               const PassShape& pass, std::size_t workspace_bytes);

}  // namespace upcycle
