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

}  // namespace upcycle
