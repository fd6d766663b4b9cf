#pragma once
#include "launch/training_run.h"

namespace upcycle {

// After a step that changed nothing: says so, with what is wrong and on which rank where it was not finite. The
// train.max_skipped_steps-th in a row ends the run: saves its state, with the data position after the skipped steps,
// and throws Diverged. Collective.
void after_skipped_step(TrainingRun& run, Metrics& metrics, const StepResult& result);

}  // namespace upcycle
