#pragma once
#include <string>
#include <vector>

#include "core/error.h"
#include "parallel/checkpoint/latest.h"
#include "parallel/checkpoint/manifest.h"

// How a step becomes visible; one process of a run does it (rank 0), holding the run folder's lock:
//   step_X.tmp/manifest.json, the last file, all of them synced
//   step_W -> step_W.old  where `latest` was set back by hand (after a loss spike), for each step W that is newer than
//   it
//                         and that the run has come to: X itself, and those that it leaves behind
//   RUN/publishing        "step_X": from here on until `latest` names it, step_X may exist without being the run's
//   rename to step_X, fsync of RUN
//   RUN/latest            "step_X"
//   step_W.old, then RUN/publishing removed
// A process that is killed in between leaves what clean_run_folder removes or, of step_W.old, puts back where `latest`
// is not what `publishing` says; `latest` always names a whole step.
namespace upcycle {

// The step folders of RUN, oldest first; those of weights alone.
std::vector<std::string> published_steps(const std::string& run_dir);
std::vector<std::string> published_models(const std::string& run_dir);

// Renames a step that is damaged, to step_X.damaged (or .damaged2 ...), where nothing takes it for a step: it is never
// removed. Returns its new name.
std::string set_damaged_aside(const std::string& run_dir, const std::string& step);

// The step folders of RUN that are newer than the one that `latest` names, in order; none where there is no latest.
std::vector<std::string> newer_steps(const std::string& run_dir);

// InputError where RUN/step_X is there already and is not newer than `latest`: a published step is never changed.
void check_publishable(const std::string& run_dir, std::int64_t step);

// Removes what a killed run or a failed save left: step_*.tmp and model_*.tmp folders (but none of `except`), files
// that were to replace others, and a step that was being published but that latest does not name. Puts back what it was
// about to replace.
void clean_run_folder(const std::string& run_dir, const std::vector<std::string>& except = {});

// The step is in its place, but it is not known whether it would outlast a power cut.
struct NotSynced : Error {
  using Error::Error;
};

// Publishes RUN/step_X.tmp in place of the newer steps up to X. On failure the folder is removed, `latest` names the
// step before and the newer steps are there again; what of this fails too is left to clean_run_folder, with a warning.
// InputError as in check_publishable; NotSynced.
void publish_step(const std::string& run_dir, const Manifest& manifest);

// Publishes RUN/model_X.tmp, weights alone: manifest last, then renamed to model_X in place of one of that name (of a
// run that was set back, or killed after it), which is model_X.old meanwhile. `latest` stays as it is. On failure the
// old one is there again.
void publish_model(const std::string& run_dir, const Manifest& manifest);

// RUN's folders of weights alone that are newer than the step that `latest` names, in order; all where there is no
// latest.
std::vector<std::string> newer_models(const std::string& run_dir);

// Which published steps stay: the `newest` ones (0: all), and all that are multiples of `every` (0: none for that).
struct Retention {
  std::int64_t newest = 0, every = 0;
  Retention(std::int64_t newest_, std::int64_t every_ = 0)  // NOLINT: a number is how many stay
      : newest(newest_), every(every_) {}
};

// Removes the other step folders up to the one that latest names, which stays; newer ones and weights alone are not
// counted. Nothing is removed, with a warning, where the one that latest names lacks a byte, or its manifest is
// damaged: it may be that only an older one is whole. (Its bytes were read back and hashed when they were written.) A
// step that another process reads (read_lock.h) stays until the next call, which is said.
void remove_old_steps(const std::string& run_dir, const Retention& keep);

}  // namespace upcycle
