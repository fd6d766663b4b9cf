#pragma once
#include "launch/study/report.h"
#include "launch/study/sweeps.h"

namespace upcycle {

// "serving" of report.json.
Json serving_costs_json(const std::vector<ServingResult>& serving);

// "break_even" of report.json: of each upcycled arm at each cell, on study.new_set, with the paper's rule for the
// rates; means over the seeds that finished. Costs are of one machine. Where serving was measured here, training is a
// run's tokens at the rate of its size's and arm's training steps, or, where `rates` lacks one of the two that are
// compared, at the mean time per token of all their runs; where serving was predicted for a machine, training is its
// (causal) FLOPs at the share of that machine's product rate that the study states.
Json break_evens(const Study& study, const std::vector<StudyResult>& results, const std::vector<RateSweep>& sweeps,
                 const std::vector<ServingResult>& serving, const TrainingRates& rates);

}  // namespace upcycle
