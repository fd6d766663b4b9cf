#pragma once
#include <vector>

#include "launch/study/report.h"
#include "launch/study/sweeps.h"

namespace upcycle {

// Sentences of the report that its reader must know: what seeds and rates stand for, what failed, what is not compared.
// `runs`: "runs" of the report, of `results`.
Json notes(const Study& study, const std::vector<StudyResult>& results, const Json& runs,
           const std::vector<RateSweep>& sweeps, const std::vector<ServingResult>& serving, const TrainingRates& rates);

}  // namespace upcycle
