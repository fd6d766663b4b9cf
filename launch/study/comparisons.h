#pragma once
#include <cmath>
#include <vector>

#include "launch/study/sweeps.h"

namespace upcycle {

// Finished results of one arm at one cell and learning rate, by seed.
std::vector<const StudyResult*> results_at(const std::vector<StudyResult>& results, const std::string& arm,
                                           const Cell& cell, double lr);

// "comparisons" of report.json: each arm against the baseline at each cell, on each held-out set, over the seeds that
// both have. `results` in the report's order. InputError: two runs were measured on other documents.
Json comparisons(const Study& study, const std::vector<StudyResult>& results, const std::vector<RateSweep>& sweeps);

// "cloze" of a run and set: {"accuracy", "corrected", "standard_error", "items"}; null: not asked. The corrected score
// is (accuracy - 1/k) / (1 - 1/k) with k candidates: 0 for guessing, 1 for always right.
Json cloze_score(const SetMeasures& set);

inline Json number_or_null(double x) { return std::isfinite(x) ? Json(x) : Json(); }  // JSON has no NaN

}  // namespace upcycle
