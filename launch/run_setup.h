#pragma once
#include <memory>
#include <optional>
#include <string>

#include "core/config/config.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/plan/plan.h"

namespace upcycle {

// What a training run starts from, decided from the config and what the run folder already holds.
struct RunSetup {
  Config config;                           // resolved: the model that training starts with is config.model
  std::optional<ModelConfig> live_moe;     // what upcycle.at_step will turn it into
  std::unique_ptr<TensorSource> source;    // init.load or init.upcycle; null: random weights, or resuming
  std::unique_ptr<Checkpoint> checkpoint;  // null: a fresh run
  std::string init;                        // "load DIR", "upcycle DIR", "random seed 1": resuming compares it
};

// Opens init.* or the run folder, inherits `model` from it, and checks that the two agree: with init.load a given model
// key that differs is an InputError, with init.upcycle only expert keys may differ. Resuming with another init or model
// is an InputError, and so is, for a run that upcycles, another seed or other upcycle keys; changed train and data keys
// are printed, and rank 0 warns of a router that can not learn. What would end the run only at upcycle.at_step is
// refused here. Nothing is written. A collective call whose InputErrors are agreed (agree.h). To plan a run, on one
// rank, a checkpoint's files are not hashed, and what depends on the number of ranks is left to make_plan.
enum class Purpose { Train, Plan };
RunSetup set_up_run(Config config, const std::string& config_name, Communicator& world,
                    Purpose purpose = Purpose::Train);

// The same for `plan` and its checks: the model that training ends with, and the dense one that it is made from.
PlannedRun planned_run(const RunSetup& run);

// The resolved config as JSON, for run.json and the manifest. Its model is the one the run ends with, so that a live
// run's saved config starts and resumes the same run.
std::string config_text(const RunSetup& run);

}  // namespace upcycle
