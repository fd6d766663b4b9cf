#pragma once
#include "core/config/check.h"
#include "core/config/config.h"

namespace upcycle {

// Learning rate of step `step` (0-based) of `total`: linear warm-up from lr / warmup_steps to lr (in tokens: to their
// share of warmup_tokens once the step is trained), then constant, cosine
// from lr to min_lr on the last step, or wsd (warm-up, stable, decay: the last decay_fraction of the steps falls
// linearly, in as many equal drops, to min_lr on the last, arXiv 2404.06395). A run that starts from weights (CPT,
// upcycling) starts at step 0 and so warms up again.
double learning_rate(const TrainConfig& train, std::int64_t step, std::int64_t total);

// The learning rate of a run's next step. With train.tokens the decay follows the tokens, with train.warmup_tokens the
// warm-up does, so that a run resumed with another batch size continues where it was, and so that under
// train.rampup_batch_size both go as fast as the text is read (Megatron's schedules count samples); else they count
// steps, however large. (A decay begins after as many steps of the whole batch as warm-up has steps, or tokens for.) It
// warms up again, for as many steps, after upcycle.at_step has made an MoE: experts and routers have no optimizer state
// then.
double learning_rate(const Config& config, const Trained& done);

// Beside it that of the embedding and the output layer: the same schedule between train.decoupled_lr and
// decoupled_min_lr, where they are given.
struct LearningRates {
  double general, decoupled;
};
LearningRates learning_rates(const Config& config, const Trained& done);

}  // namespace upcycle
