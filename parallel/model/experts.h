#pragma once
#include "parallel/model/dispatch.h"
#include "parallel/model/weights.h"

// The local experts of one MoE layer: a SwiGLU MLP each, all of them in one grouped product per matrix.
namespace upcycle {

// What the backward reads of a forward.
struct ExpertsState {
  Tensor input, gate_up, act;  // (R, H), (R, 2 moe_F_local), (R, moe_F_local): expert rows
  Tensor output;               // (slots, H): the experts' outputs, back in slot layout
};

struct ExpertsScratch {
  Tensor rows;            // (R, H): outputs on their way back, and their gradients
  Tensor dgate_up, dact;  // (R, 2 moe_F_local), (R, moe_F_local)
};

// saved.output = the experts of the rows that to_experts has sent: a chunk that has arrived is computed and starts
// back, under the next one's products. A slot is there once its chunk's transfer is reached.
void experts_forward(const ModelContext& m, const LayerWeights& w, Dispatch& d, const ExpertsState& saved,
                     const ExpertsScratch& scratch);

// The same way back: the outputs' gradients were sent by to_experts, the inputs' come to d.slots_beside(scratch.rows);
// weights' gradients are added to g.
void experts_backward(const ModelContext& m, const LayerWeights& w, const LayerWeights& g, Dispatch& d,
                      const ExpertsState& saved, const ExpertsScratch& scratch);

}  // namespace upcycle
