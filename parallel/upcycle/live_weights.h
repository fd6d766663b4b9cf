#pragma once
#include "parallel/train/trainer.h"
#include "parallel/upcycle/expert_maker.h"

namespace upcycle {

// How the working weights of a dense trainer become those of an MoE trainer of the same mesh. All are collective calls.

// Working weights of retained parameters, and of routers with their masters: no communication.
void copy_retained(const Trainer& dense, Trainer& moe);
void draw_routers(const ExpertMaker& maker, Trainer& moe);

// Experts' working weights out of the dense working weights: this rank's own slices where experts_are_local, else
// gathered over tp, one layer's MLP at a time, in the MoE's idle gradients.
void make_local_experts(const Trainer& dense, const ExpertMaker& maker, Trainer& moe);

// Experts' working weights as the rounding of their new masters, gathered over edp.
void gather_experts(Trainer& moe);

}  // namespace upcycle
