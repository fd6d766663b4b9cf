#include "launch/study/disk_space.h"

#include <algorithm>
#include <filesystem>

#include "core/config/check.h"
#include "core/error.h"
#include "launch/study/progress.h"
#include "parallel/model/params.h"

namespace upcycle {
namespace {

double checkpoint_bytes(const Config& c) {
  if (c.model.hidden_size == 0) return 0;  // inherited: not known here
  const int moments = c.train.optimizer == "adamw" ? 2 : c.train.optimizer == "sgd" ? 0 : 1;
  return static_cast<double>(count_parameters(c.model).total) * static_cast<double>(sizeof(float)) * (1 + moments);
}

// Beside the last one, while it trains; a new one is written before an old one is removed.
double extra_checkpoints(const Config& c) {
  if (c.checkpoint.every == 0) return 0;
  const std::int64_t saves = (total_steps(c.train) + c.checkpoint.every - 1) / c.checkpoint.every;
  return static_cast<double>(c.checkpoint.keep == 0 ? saves - 1 : std::min(c.checkpoint.keep, saves - 1));
}

}  // namespace

double bytes_to_write(const Study& study, const std::vector<const StudyRun*>& runs) {
  double bytes = 0;
  std::vector<double> extra;
  for (const StudyRun* run : runs) {
    bytes += checkpoint_bytes(run->config);
    extra.push_back(checkpoint_bytes(run->config) * extra_checkpoints(run->config));
  }
  std::ranges::sort(extra, std::greater());
  for (std::size_t i = 0; i < extra.size() && i < static_cast<std::size_t>(study.launch.at_once); ++i)
    bytes += extra[i];
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
