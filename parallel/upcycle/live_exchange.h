#pragma once
#include "parallel/train/trainer.h"
#include "parallel/upcycle/live_plan.h"

// Moves a dense trainer's state into an MoE trainer of the same mesh, each thing once. All are collective calls.
namespace upcycle {

// Cuts a plan in one round into rounds that fit the buffers on all ranks.
void agree_on_rounds(LiveExchange& plan, Communicator& world, std::int64_t buffer_elements = kLiveBufferElements);

// The fp32 shards of one state (masters, a moment): from their dense owners, `from` being this rank's (shard_size), to
// the owners in `to`, who make their pieces of them. Two buffers of the plan's fullest rounds, freed at the end.
void exchange_shards(const LiveExchange& plan, const Trainer& dense, const Tensor& from, const ExpertMaker& maker,
                     LiveState state, Trainer& moe, const FlatPair& to);

// Working weights of parameters that stay, and of routers with their masters: nothing moves.
void copy_retained(const Trainer& dense, Trainer& moe);
void draw_routers(const ExpertMaker& maker, Trainer& moe);

// Experts' working weights out of the dense working weights: this rank's own slices where experts_are_local, else
// gathered over tp, a layer's MLP at a time, in the MoE's idle gradients.
void make_local_experts(const Trainer& dense, const ExpertMaker& maker, Trainer& moe);

// Experts' working weights as the rounding of their new masters, gathered over edp.
void gather_experts(Trainer& moe);

}  // namespace upcycle
