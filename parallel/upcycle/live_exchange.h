#pragma once
#include "parallel/train/owned_state.h"
#include "parallel/train/trainer.h"
#include "parallel/upcycle/live_plan.h"

// Moves a dense trainer's state into an MoE trainer of the same mesh, each element once. All are collective calls.
namespace upcycle {

// Cuts a one-round plan into rounds that fit the buffers on all ranks.
void agree_on_rounds(LiveExchange& plan, Communicator& world, std::int64_t buffer_elements = kLiveBufferElements);

// Sends the shards of one state, as fp32, from their dense owners to the new owners, which make their pieces from them.
// Two buffers, as large as the plan's fullest rounds, are freed at the end.
void exchange_shards(const LiveExchange& plan, const Trainer& dense, const ExpertMaker& maker, StateKind state,
                     Trainer& moe);

}  // namespace upcycle
