#pragma once
#include <vector>

#include "parallel/model/context.h"

// The router of one MoE layer, in fp32: logits, the k best experts of each token, their weights, and the losses that
// keep it balanced.
namespace upcycle {

// What the backward reads of a forward.
struct RouterState {
  // Kept under recompute: experts are never chosen twice.
  Tensor experts;       // i32 (T_local, k)
  Tensor stats;         // f64 (2E + 2), see Ops::router_stats; summed over tp
  Tensor expert_scale;  // fp32 (E): the losses' coefficient of each expert's probability
  Tensor running;       // f64 (E), if the loss counts the global batch: assignments of its microbatches so far
  // Of the pass under way.
  Tensor probs, weights, lse;  // fp32 (T_local, E), (T_local, k), (T_local)
  Tensor logits;               // fp32 (T_local, E), of sigmoid scores where there is a backward
};

struct RouterScratch {
  Tensor x, w;             // fp32 (T_local, H), (E, H)
  Tensor logits, dlogits;  // fp32 (T_local, E)
  // With biases: the choice without them, its weights and its statistics.
  Tensor experts, weights, stats;  // i32, fp32 (T_local, k), f64 (2E + 2)
  Tensor counted;                  // f64 (E): a microbatch's assignments, of all data-parallel ranks
};

// What the router did in a layer, summed over microbatches with their share of the valid tokens as weight; as
// Ops::router_losses orders them.
struct RouterMetrics {
  double aux = 0, z = 0, entropy = 0, load_max_over_mean = 0;
  std::vector<std::int64_t> assignments = {};  // of each expert, without weight; empty if the layer is dense
};

// x (T_local, H), weight (E, H), bias fp32 (E) or empty -> saved.experts, probs, weights, lse. The experts of padding
// are -1.
void route(const ModelContext& m, const Tensor& weight, const Tensor& bias, const Tensor& x, const RouterState& saved,
           const RouterScratch& scratch);

// The losses of what route has chosen: saved.stats and expert_scale, and metrics f64 (4 + E) += RouterMetrics of this
// microbatch, weighted by `share`, its part of the step's valid tokens. Under router_aux_loss_scope = global_batch the
// loss's f_e are of the step's microbatches so far, of all data-parallel ranks (arXiv 2501.11873); saved.running adds
// them up, and a step begins with zeros there. With biases f_e counts what would be chosen without them (as
// Megatron-Core has it): the loss is to move the scores where the bias evens out the load.
void router_losses(const ModelContext& m, const Tensor& metrics, double share, const RouterState& saved,
                   const RouterScratch& scratch);

// saved.probs, weights and lse again, for the experts that were chosen before: what a recomputed layer does.
void route_again(const ModelContext& m, const Tensor& weight, const Tensor& x, const RouterState& saved,
                 const RouterScratch& scratch);

// dx (T_local, H) += and dweight fp32 (E, H) += the gradients of the losses and, from dweights fp32 (T_local, k), of
// the chosen experts' weights.
void route_backward(const ModelContext& m, const Tensor& weight, const Tensor& dweight, const Tensor& dx,
                    const Tensor& dweights, const Tensor& x, double share, const RouterState& saved,
                    const RouterScratch& scratch);

}  // namespace upcycle
