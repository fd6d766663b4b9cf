#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/study/grid.h"

// The files of a study: OUTPUT/runs/NAME is a run folder of `upcycle train` with, beside the trainer's files,
//   config.json    what it is trained with; another config is refused
//   started.json   what it was started from (run_start.h); another start is refused
//   train.log      what training and measuring said
//   measured/      what the commands that measure it printed
//   measures.json  the run is finished (measures.h)
//   failed.json    why it is not, and since when
// and OUTPUT/locks/NAME is locked by the driver that works on it.
namespace upcycle {

std::string run_folder(const Study& study, const std::string& name);
std::string lock_folder(const Study& study, const std::string& name);

// The first key in which two configs of a run differ, with its values in JSON or "nothing"; where they stand and what
// is held out is no part of what a run is. `..._where` names a text in messages.
struct ConfigDifference {
  std::string key, expected, found;  // before, now
};
std::optional<ConfigDifference> config_difference(const std::string& before, const std::string& before_where,
                                                  const std::string& now, const std::string& now_where);

// InputError, naming the run and the first key that differs, where its folder belongs to another config.
void check_same_config(const Study& study, const StudyRun& run);

// Makes the folder ready to train in: config.json, started.json, and for a run that goes on from another a copy of the
// other's newest checkpoint and metrics. Repeating it changes nothing, whenever an earlier call was interrupted.
void prepare_run(const Study& study, const StudyRun& run);

// Whether no process trains in the folder; one that was killed holds it for a moment more.
bool is_free(const std::string& folder);

// The steps that tell how a run went, oldest first: those that checkpoint.every asks for, and the last one. Saves made
// because a signal came are none of them.
std::vector<std::string> kept_steps(const std::string& folder, const Config& config);

struct Failure {
  std::string error;
  double at = 0;  // seconds since 1970
};
std::optional<Failure> read_failure(const std::string& folder);
void write_failure(const std::string& folder, const std::string& error);
// The last line of a log, from byte `begin` on, that starts with "upcycle: ", without this; else what exit code `code`
// means and the last line.
std::string last_error(const std::string& log, std::uint64_t begin, int code);

double seconds_since_1970();

}  // namespace upcycle
