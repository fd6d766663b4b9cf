#include "launch/study/disk_space.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "launch/study/progress.h"
#include "launch/study/study_plan.h"

namespace upcycle {

double bytes_to_write(const Study& study, const std::vector<const StudyRun*>& runs) {
  double bytes = 0;
  std::vector<double> while_it_runs;
  std::map<std::string, RunFiles> planned;  // the same for all runs of a model; planning one takes a moment
  for (const StudyRun* run : runs) {
    const std::string key = run->cell.size + run->arm + run->kind;
    if (!planned.contains(key)) planned[key] = files_of(study, *run);
    const RunFiles& files = planned[key];
    bytes += static_cast<double>(files.kept);
    while_it_runs.push_back(static_cast<double>(files.most - files.kept));
  }
  std::ranges::sort(while_it_runs, std::greater());
  for (std::size_t i = 0; i < while_it_runs.size() && i < static_cast<std::size_t>(study.launch.at_once); ++i)
    bytes += while_it_runs[i];
  return bytes;
}

void check_disk(const Study& study, double bytes) {
  const double free = static_cast<double>(std::filesystem::space(study.output).available);
  if (bytes > free)
    input_error(
        "{}: output: found {} free in {}, expected {} for the checkpoints of the study; free some, or choose "
        "another output",
        study.file, bytes_text(free), study.output, bytes_text(bytes));
}

}  // namespace upcycle
