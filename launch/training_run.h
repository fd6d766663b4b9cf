#pragma once
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/sampler.h"
#include "launch/backend.h"
#include "launch/run_setup.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/train/step.h"
#include "parallel/train/trainer_state.h"

namespace upcycle {

class Metrics;

// Everything of one training run on one rank.
struct TrainingRun {
  const Mesh& mesh;
  const Backend& backend;
  RunSetup setup{};
  Trainer trainer{};
  std::unique_ptr<Sampler> sampler{};
  std::map<std::string, TokenSet> valid{};
  std::unique_ptr<Snapshot> snapshot{};  // before its writer, which may still read it when an error ends the run
  std::unique_ptr<CheckpointWriter> writer{};
  std::vector<std::string> travel{};  // files that go into each checkpoint
  double wall_before = 0;             // seconds of training before this process
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
};

// The run's token sets and tokenizer. InputError where they do not fit the run, on the rank that finds it.
void open_data(TrainingRun& run);
SequenceSource sequences(TrainingRun& run);

// Memory for a run that saves: what a checkpoint's copy of the state takes.
void make_snapshot_arena(TrainingRun& run);

// What training starts from: a checkpoint of this run, an upcycled or a loaded model, or random weights. Collective.
void start_weights(TrainingRun& run);

// upcycle.at_step: the dense trainer of this run becomes an MoE trainer. Nothing may be under way of a save.
// Collective.
void upcycle_in_place(TrainingRun& run);

// The loss on each validation set. Collective.
void evaluate_all(TrainingRun& run, Metrics& metrics);

}  // namespace upcycle
