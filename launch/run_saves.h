#pragma once
#include <string>
#include <vector>

#include "launch/training_run.h"

// The checkpoints of a training run. The calls that take the run are calls of all its ranks.
namespace upcycle {

// What says how the run's tokens are text travels with its checkpoints: data.tokenizer where it is given, else the
// files beside the weights that the run started from.
std::vector<std::string> travelling(const RunSetup& setup);

// A run that was set back by hand, as after a loss spike, meets what it has saved before.
void warn_of_newer_steps(const std::string& dir);

// Starts to save the state as it is now; the save before is published first, and with checkpoint.background false so is
// this one.
void start_save(TrainingRun& run);

// Waits for the save that is under way, if there is one, and publishes it.
void finish_save(TrainingRun& run);

// A step whose files lie complete on every rank is published at once: until `latest` names it, a killed run would lose
// it.
void publish_written(TrainingRun& run);

// A step whose loss is not finite has changed nothing: the state before it is saved (unless it `is_saved`), for a run
// with other settings to go on from. Older steps stay, whatever checkpoint.keep says: it may be the weights that are
// ruined. Says what was done.
std::string save_before_divergence(TrainingRun& run, bool is_saved);

}  // namespace upcycle
