#pragma once
#include <cstdint>
#include <vector>

#include "launch/study/grid.h"

namespace upcycle {

// All runs of a study before any has run: swept arms are taken at the middle rate, and where speeds have to match at
// the same FLOP/s. Only counts, not results, depend on that. (One rate for all: a second sweep that chooses another
// adds runs of its cell, at most `seeds` for each arm.)
std::vector<StudyRun> planned_runs(const Study& study);

// (check_study.cpp) Refuses before any work starts what could not be compared or run: vocabularies and sequence lengths
// that differ, warm-up longer than a tenth of the shortest budget, token sets that are missing, of another tokenizer,
// or too small (data.most_epochs), held-out sets with too few cloze items or documents, layouts and memory. InputError.
// (check_runs.cpp) Of these, what needs no files (names, warm-up, arms that are trained alike).
void check_runs(const Study& study, const std::vector<StudyRun>& planned);
void check_study(const Study& study, const std::vector<StudyRun>& planned);

// Bytes that a finished run leaves, and that it has at most while it runs.
struct RunFiles {
  std::size_t kept = 0, most = 0;
};
RunFiles files_of(const Study& study, const StudyRun& run);

// `upcycle plan study.json`: counts, tokens, FLOPs, hours of `devices` at `mfu` of `peak` FLOP/s each, files.
struct PlanRates {
  double mfu = 0, peak = 0;
};
void print_study_plan(const Study& study, const std::vector<StudyRun>& planned, const PlanRates& rates, bool json);

}  // namespace upcycle
