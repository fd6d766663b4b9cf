#pragma once
#include <cstdint>

#include "core/config/config.h"

// Sequences of each step of a run. Without train.rampup_batch_size they are always train.global_batch_size; with it the
// batch depends on how many sequences were trained on before (`consumed`; those of train.skip_samples do not count), as
// in Megatron's RampupBatchsizeNumMicroBatchesCalculator, in the same arithmetic. So it is the same on every layout,
// and a resumed run needs nothing else to go on in it. A ramp that check_train refuses counts as none.
namespace upcycle {

bool ramps_batch(const TrainConfig& train);
// Of the step that comes after `consumed` sequences.
std::int64_t batch_size_at(const TrainConfig& train, std::int64_t consumed);
// Sequences of the next `steps` steps.
std::int64_t samples_in(const TrainConfig& train, std::int64_t consumed, std::int64_t steps);
// The steps that the next `samples` sequences take, the last of them counted whole.
std::int64_t steps_for(const TrainConfig& train, std::int64_t consumed, std::int64_t samples);

}  // namespace upcycle
