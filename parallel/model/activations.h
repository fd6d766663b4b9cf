#pragma once
#include <vector>

#include "core/arena.h"
#include "parallel/model/attention.h"
#include "parallel/model/head.h"
#include "parallel/model/mlp.h"
#include "parallel/model/moe.h"

// What a pass keeps, laid out once in an arena before the first step. T_local = T / tp: under sequence parallelism
// norms and residuals hold this rank's contiguous rows of T (arXiv 2205.05198).
namespace upcycle {

struct NormState {
  Tensor out, rstd;  // (T_local, H), fp32 (T_local)
  Tensor in;         // (T_local, H), in place of out under norm_placement post: a branch's output, which is normed
};

struct LayerState {
  Tensor x, x_mid;  // (T_local, H): the residual entering attention, and entering the MLP
  NormState attention_norm, mlp_norm;
  AttentionState attention;
  MlpState mlp;  // of a dense layer
  MoeState moe;
};

// Buffers of one layer's work at a time; attention's, the MLP's and the experts' share memory.
struct Scratch {
  Tensor gathered, dgathered, partial;  // (T, H), tp > 1: see SequenceBuffers
  Tensor branch;                        // (T_local, H): what attention or the MLP adds to the residual
  Tensor dx, dnorm;                     // (T_local, H): gradient of the residual, and of a norm's output
  AttentionScratch attention;
  MlpScratch mlp;
  MoeScratch moe;
  DispatchBuffers dispatch;
  Tensor logits_row;  // fp32 (1, V_local), inference only: the next token's
  Tensor workspace;   // for ops
};

struct Activations {
  std::vector<LayerState> layers;
  Tensor x_last;  // (T_local, H): the residual after the last layer
  NormState final_norm;
  HeadState head;
  // f64 (1 + (4 + E) L), summed over microbatches: what a step reports, in one piece so that it travels in one. First
  // the loss (loss_sum, f64 (1)), then what Ops::router_losses adds of each layer (zeros where it is dense).
  Tensor step_sums, loss_sum;
  Tensor running;  // f64 (E L): of all layers, RouterState::running; or none
  Scratch scratch;
  std::size_t recomputed_bytes = 0;  // that a backward makes again, all layers (PassShape::recompute)

  Tensor metrics_of(std::int64_t layer) const {
    const std::int64_t each = (step_sums.rows() - 1) / static_cast<std::int64_t>(layers.size());
    return step_sums.slice_rows(1 + each * layer, 1 + each * (layer + 1));
  }
};

OpLimits op_limits(const Sizes& sizes, const PassShape& pass, const Layout& layout);

// `workspace_bytes`: Ops::workspace_bytes of op_limits. Throws InputError where tp does not divide T.
Activations layout_activations(Arena& arena, const ModelConfig& model, const Sizes& sizes, const Layout& layout,
                               const PassShape& pass, std::size_t workspace_bytes);

// `to`, laid out for inference as `whole` is, gets the first T rows of its tensors (the first T_local where those of tp
// ranks are apart). Scratch of the MoE layers that is cut by its use stays whole. Allocates nothing.
void take_first_rows(Activations& to, const Activations& whole, std::int64_t T, std::int64_t T_local);

}  // namespace upcycle
