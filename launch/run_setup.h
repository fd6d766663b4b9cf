#pragma once
#include <memory>
#include <optional>
#include <string>

#include "core/config/config.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/plan/plan.h"

namespace upcycle {

// What a training run starts from, as decided by the config and the contents of the run folder.
struct RunSetup {
  Config config;                           // resolved: the model that training starts with is config.model
  std::optional<ModelConfig> live_moe;     // the MoE model after upcycle.at_step, if set
  std::unique_ptr<TensorSource> source;    // init.load or init.upcycle; null: random weights, or resuming
  std::unique_ptr<Checkpoint> checkpoint;  // null: a fresh run
  std::string init;                        // "load DIR", "upcycle DIR", "random seed 1"; compared on resuming
};

// Opens init.* or the run folder, inherits `model` from it, and checks that config and source agree: with init.load, a
// given model key that differs is an InputError; with init.upcycle only expert keys may differ. Resuming with another
// init or model is an InputError, as is, for a run that upcycles, another seed or other upcycle keys; changed train and
// data keys are printed, and rank 0 warns of a router that can not learn. Errors that would occur only at
// upcycle.at_step are found here. Writes nothing. Collective; InputErrors are agreed (agree.h). Purpose::Plan, on one
// rank, does not hash a checkpoint's files, takes the newest step whose manifest is whole, and leaves what depends on
// the number of ranks to make_plan.
enum class Purpose { Train, Plan };
RunSetup set_up_run(Config config, const std::string& config_name, Communicator& world,
                    Purpose purpose = Purpose::Train);

// The run for `plan` and its checks: the model with which training ends, and the dense model from which it is made.
PlannedRun planned_run(const RunSetup& run);

// The resolved config as JSON, for run.json and the manifest. Its model is the one with which the run ends, so that the
// saved config of a run with upcycle.at_step starts and resumes the same run.
std::string config_text(const RunSetup& run);

}  // namespace upcycle
