#pragma once
#include <vector>

#include "launch/study/file_marks.h"
#include "launch/study/grid.h"

// OUTPUT/runs/NAME/started.json: what a run was started from and trained with, which its own config only names.
//   files  of each file, or model's folder, from outside the study: its mark (file_marks.h)
//   runs   of each run of the study that it starts from or goes on from, and that these do: the config
// Both contain what those runs were started from.
namespace upcycle {

// Writes it, once the runs that it needs are finished; one that is there stays.
void note_start(const Study& study, const StudyRun& run);

// InputError, naming the run and what it starts from, where this is not what it was when the run was started. `runs`:
// all that are known. Nothing where the run has not been started.
void check_same_start(const Study& study, const StudyRun& run, const std::vector<StudyRun>& runs, FileMarks& marks);

}  // namespace upcycle
