#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "launch/study/launcher.h"
#include "launch/study/report.h"

namespace upcycle {

// Runs `upcycle` with these arguments to its end and returns the object that it printed; Error or InputError otherwise.
// `over_ranks`: on as many as a run has.
using RunForJson = std::function<Json(const std::vector<std::string>& arguments, bool over_ranks)>;

// What serving costs: of each size its dense model, and of each arm its model where that is another one; equal models
// are asked for once. Measured here (study.serving.measure), else predicted for study.serving.machine. What is found is
// kept in OUTPUT/serving.json and not asked for again. A model for which it fails is left out; `problems` says why.
std::vector<ServingResult> serving_costs(const Study& study, const std::vector<StudyResult>& results,
                                         const RunForJson& run, std::vector<std::string>& problems);

// "model" or "baseline" (`part`) of the object that `bench serve --json` prints. The rate is what it does when there is
// always a next request: the highest that is sustained is known in steps of a sixth of it alone, and stays in the
// curve.
ServingResult serving_result(const Json& report, const char* part, const std::string& size, const std::string& arm);

}  // namespace upcycle
