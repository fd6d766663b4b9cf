#pragma once
#include <optional>
#include <string>
#include <vector>

#include "launch/study/grid.h"
#include "launch/study/measures.h"

namespace upcycle {

// One command that measures a trained run: with these arguments of `upcycle` it prints one JSON object, which is kept
// in `file` (absolute or below the working directory). The file's name follows from the arguments: asked for something
// else, it is another file.
struct MeasureCommand {
  std::vector<std::string> arguments;
  std::string file;
  bool over_ranks = true;
};
// In order; `folder`: the run's.
std::vector<MeasureCommand> measure_commands(const Study& study, const StudyRun& run, const std::string& folder);

// What the files of these commands and metrics.jsonl say; each entry of `experts` also has the "step" and the
// "trained_tokens" of its checkpoint. InputError for anything else than expected.
RunMeasures collect_measures(const Study& study, const StudyRun& run, const std::string& folder);

// The measures of a finished run: null where there are none or where the study asks for others (another cloze, another
// held-out set).
std::optional<RunMeasures> read_measures(const Study& study, const StudyRun& run, const std::string& folder);

// Options of a run's config for the commands that read its model.
std::vector<std::string> inference_arguments(const Config& config);

}  // namespace upcycle
