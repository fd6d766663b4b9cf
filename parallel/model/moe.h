#pragma once
#include "parallel/model/dispatch.h"
#include "parallel/model/mlp.h"
#include "parallel/model/router.h"
#include "parallel/model/weights.h"

// Mixture of experts: route, send each token's rows to its experts' ranks, one grouped SwiGLU over the local experts,
// send back, and add up with the router's weights in token order.
//   etp = 1:  an expert is whole on a rank; each tp rank sends its own T_local tokens (ep may span tp: folding).
//   etp = tp: an expert's F is cut over tp; every tp rank sends all T tokens and holds a part of each sum, which
//             sequence parallelism's reduce-scatter adds up.
namespace upcycle {

// Of the local experts, a SwiGLU MLP each, all of them in one grouped product per matrix.
struct ExpertsState {
  Tensor input, gate_up, act;  // (R, H), (R, 2 moe_F_local), (R, moe_F_local): expert rows
  Tensor output;               // (slots, H): the experts' outputs, back in slot layout
};

struct ExpertsScratch {
  Tensor rows;            // (R, H): outputs on their way back, and their gradients
  Tensor dgate_up, dact;  // (R, 2 moe_F_local), (R, moe_F_local)
};

// What the backward reads of a forward.
struct MoeState {
  RouterState router;
  Dispatch dispatch;
  ExpertsState experts;
  MlpState shared;  // the shared expert's
};

struct MoeScratch {
  RouterScratch router;
  ExpertsScratch experts;
  MlpScratch shared;
  Tensor dweights;                                // fp32 (T_local, k): gradient of the chosen experts' weights
  Tensor all_experts, all_weights, all_dweights;  // i32, fp32, fp32 (T, k) (etp > 1)
};

// out (T_local, H) = the experts of x (T_local, H). metrics and share: see router_losses,
// which only passes of training have.
void moe_forward(const ModelContext& m, const LayerWeights& w, const Tensor& out, const Tensor& x,
                 const Tensor& metrics, double share, MoeState& saved, const MoeScratch& scratch,
                 const SequenceBuffers& buffers);

// What the backward reads, again from x: the chosen experts and their transfers are those of the forward.
void moe_recompute(const ModelContext& m, const LayerWeights& w, const Tensor& x, MoeState& saved,
                   const MoeScratch& scratch, const SequenceBuffers& buffers);

// dx (T_local, H) = the gradient of x from dout (T_local, H) and the router's losses; weights' gradients are added to
// g.
void moe_backward(const ModelContext& m, const LayerWeights& w, const LayerWeights& g, const Tensor& dx,
                  const Tensor& dout, const Tensor& x, double share, MoeState& saved, const MoeScratch& scratch,
                  const SequenceBuffers& buffers);

}  // namespace upcycle
