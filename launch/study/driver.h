#pragma once
#include <string>
#include <vector>

#include "launch/study/report.h"
#include "launch/study/run_states.h"

namespace upcycle {

// What the driver of a study calls.
struct StudyProgram {
  std::string binary;  // ours, for the runs
  KnownRuns known;     // known_runs of the study
  // Writes what the whole study gave, report.json last. `problems`: sentences for its notes.
  std::function<void(const std::vector<StudyResult>&, const std::vector<ServingResult>&,
                     const std::vector<std::string>& problems)>
      report;
};

// Trains and measures every run of a study that is not finished yet, each as a process of its own, then what serving
// costs, then the report. Several drivers may work on one study: each takes runs that nobody has, and the last one to
// end writes the report. However it ends, starting it again goes on where it was.
//   0  all is done                        kStudyIncomplete  the report is written, but some runs failed
//   kStoppedBySignal  SIGTERM, SIGUSR1 or SIGINT (catch_stop_signals, catch_interrupt): what was running has saved
// InputError before any work where a run's folder belongs to another config or start, or the disk is too small.
int drive_study(const Study& study, const StudyProgram& program);
constexpr int kStudyIncomplete = 4;  // not 1, which an error that nobody caught ends with

}  // namespace upcycle
