#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launch/study/study.h"

namespace upcycle {

// One run of a study: one call of `upcycle train`.
struct StudyRun {
  std::string name;  // unique; its folder is OUTPUT/runs/NAME
  std::string kind;  // "pretraining" | "trunk" | "arm"
  std::string arm;   // "" = dense pretraining
  Cell cell;         // budget 0: pretraining
  std::int64_t seed = 1;
  double lr = 0;
  bool sweep = false, result = false;  // an arm's run is part of a sweep, of the results, or of both
  Config config;                       // checked; checkpoint.dir is its folder
  std::string config_text;             // the JSON to train with
  std::int64_t tokens = 0;             // that it trains on; of a branch its trunk's too
  double flops = 0;                    // of these, by study.flops
  double own_flops = 0;                // a branch's or trunk's without those of the run that it continues
  std::vector<std::string> needs;      // names of runs that must be finished before
  std::string continues;               // name of the run whose newest checkpoint this one goes on from, as its own
};

// Where an arm that has several learning rates is swept: for each size at the shortest duration (as the paper did), and
// for the verdict's size again at the largest budget of the verdict's duration.
Cell sweep_cell(const Study& study, const std::string& size);
Cell second_sweep_cell(const Study& study);

// The learning rate that the sweep of an arm at a cell (one of the two above) chose, once all its runs are finished: by
// loss on the half of the held-out text that is for choosing (measures.h). Null: not yet, or all runs of it failed.
using ChosenRate = std::function<std::optional<double>(const StudyArm& arm, const Cell& cell)>;
// Tokens/s of an arm's model (of the dense model for ""), measured once and stored; null: not yet.
using MeasuredRate = std::function<std::optional<double>(const std::string& size, const std::string& arm)>;

// All runs that are known: those after a sweep appear once it has chosen. In the order in which to start them.
std::vector<StudyRun> known_runs(const Study& study, const ChosenRate& chosen, const MeasuredRate& measured);

}  // namespace upcycle
