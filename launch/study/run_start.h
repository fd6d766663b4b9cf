#pragma once
#include <optional>
#include <string>
#include <vector>

#include "launch/study/file_marks.h"
#include "launch/study/report.h"

// OUTPUT/runs/NAME/started.json: what a run was started from and trained with, which its own config only names.
//   files  of each file, or model's folder, from outside the study: its mark (file_marks.h)
//   runs   of each run of the study that it starts from or goes on from, and that these do: the config
//   trained_on  machine, ranks, and runs at the same time, of the first start
// The first two contain what those runs were started from.
namespace upcycle {

// Writes it, once the runs that it needs are finished; one that is there stays.
void note_start(const Study& study, const StudyRun& run);

// InputError, naming the run and what it starts from, where this is not what it was when the run was started. `runs`:
// all that are known. Nothing where the run has not been started.
void check_same_start(const Study& study, const StudyRun& run, const std::vector<StudyRun>& runs, FileMarks& marks);

// A sentence for the report's notes where runs were trained, or served, on several machines or in several ways.
std::optional<std::string> note_of_machines(const Study& study, const std::vector<StudyResult>& results,
                                            const std::vector<ServingResult>& serving);

}  // namespace upcycle
