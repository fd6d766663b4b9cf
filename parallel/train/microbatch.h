#pragma once
#include "parallel/model/transformer.h"
#include "parallel/train/step.h"

// A step's microbatches on one rank. Which sequences form which is global: microbatch j is sequences
// [j * micro_batch_size, ...), and dp rank r takes the r-th run of microbatches.
namespace upcycle {

// Reads this rank's sequences of the step at consumed_samples into host_tokens and host_targets.
void load_step(Trainer& t, const SequenceSource& source);

std::int64_t microbatches_here(const Trainer& t);

// Of the loaded step, all ranks. A collective call.
double valid_tokens(const Trainer& t);

// Forward and backward of this rank's microbatch `j` of the loaded step: adds its gradients; `ready` as backward has
// it. The only division of gradients is by `valid`, the step's number of valid tokens.
void run_microbatch(Trainer& t, std::int64_t j, double valid, const GradientsReady& ready);

}  // namespace upcycle
