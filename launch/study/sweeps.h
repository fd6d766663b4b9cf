#pragma once
#include <optional>
#include <string>
#include <vector>

#include "launch/study/measures.h"

namespace upcycle {

// One sweep of an arm's learning rate at one cell.
struct RateSweep {
  std::string arm;
  Cell cell;
  bool again = false;         // at second_sweep_cell (grid.h), not as the paper did
  std::vector<double> rates;  // ascending
  std::vector<double> loss;   // of each, on the half of study.new_set for choosing; NaN: failed or not done
  std::optional<double> best;
  bool interior = false;  // best is neither the smallest nor the largest rate tried
  // Of its finished runs and the trunks that they go on from, as far as no sweep before this one has them.
  double flops = 0, wall_seconds = 0;
};
std::vector<RateSweep> sweeps_of(const Study& study, const std::vector<StudyResult>& results);

// The learning rate of an arm's results at a cell: by the paper's rule (swept at the shortest duration and kept) or,
// with `again`, by the second sweep where there is one at that cell. Null: not known yet.
std::optional<double> rate_of(const Study& study, const std::vector<RateSweep>& sweeps, const std::string& arm,
                              const Cell& cell, bool again);

// The run whose checkpoint a branch or trunk goes on from; null: it starts by itself.
const StudyResult* start_of(const std::vector<StudyResult>& results, const StudyResult& result);
double own_seconds(const std::vector<StudyResult>& results, const StudyResult& result);  // without that run's

const SetMeasures* find_set(const StudyResult& result, const std::string& name);  // null: not measured

}  // namespace upcycle
