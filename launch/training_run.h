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
#include "parallel/train/snapshot.h"
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
  std::map<std::string, std::int64_t>
      valid_bytes{};  // on rank 0, of what an evaluation predicts; where a tokenizer is known
  // checkpoint.max_pending of them, taken in turn; declared before their writer, which may still read them when an
  // error ends the run.
  std::vector<Snapshot> snapshots{};
  std::size_t next_snapshot = 0;
  std::unique_ptr<CheckpointWriter> writer{};
  std::vector<TravellingFile> travel{};  // files to write into each checkpoint; bytes on rank 0 only
  struct Saves {
    std::int64_t failed_step = -1;                       // of the last whole state that was not saved
    std::int64_t failed_states = 0, failed_weights = 0;  // in a row
  } saves{};
  bool resumed = false;
  bool dumps = false;      // debug.dump: a step is still to be dumped
  double wall_before = 0;  // seconds of training before this process
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
};

// Writes a file of the run folder that the run itself does not need: a disk that does not take it is said.
void write_for_readers(const std::string& path, const std::string& text);

// Opens the run's token sets and tokenizer. InputError, on the rank that finds it, if they do not fit the run.
void open_data(TrainingRun& run);
SequenceSource sequences(TrainingRun& run);

// Allocates the snapshots of a run that saves: the copies of the state from which checkpoints are written.
void make_snapshots(TrainingRun& run);

// Sets the initial weights: a checkpoint of this run, an upcycled or a loaded model, or random weights. Collective.
void start_weights(TrainingRun& run);

// upcycle.at_step: turns the dense trainer of this run into an MoE trainer. No save may be in progress. Collective.
void upcycle_in_place(TrainingRun& run);

// Logs the loss on each validation set. Collective.
void evaluate_all(TrainingRun& run, Metrics& metrics);

}  // namespace upcycle
