#pragma once
#include <string>

#include "parallel/checkpoint/manifest.h"

// How a step becomes visible; one process of a run does it (rank 0), holding the run folder's lock:
//   step_X.tmp/manifest.json, the last file, all of them synced
//   RUN/publishing     "step_X": from here on until `latest` names it, step_X may stand without being the run's
//   rename to step_X, fsync of RUN
//   RUN/latest         "step_X"
//   RUN/publishing removed
// A process that is killed in between leaves what clean_run_folder removes; `latest` always names a whole step.
namespace upcycle {

// The step folder that RUN/latest names, "" where there is none. InputError where it is not such a name.
std::string read_latest(const std::string& run_dir);

// Removes what a killed run left: step_*.tmp folders and a step that was being published but that latest does not name.
void clean_run_folder(const std::string& run_dir);

// Publishes RUN/step_X.tmp. On failure the folder is removed and `latest` names the step before. InputError where
// step_X is there already.
void publish_step(const std::string& run_dir, const Manifest& manifest);

// Removes the oldest step folders but `keep` (0: all stay), never what latest names.
void remove_old_steps(const std::string& run_dir, std::int64_t keep);

}  // namespace upcycle
