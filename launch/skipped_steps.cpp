#include "launch/skipped_steps.h"

#include <fmt/core.h>

#include <cmath>

#include "core/log.h"
#include "launch/metrics.h"
#include "launch/run_saves.h"
#include "parallel/train/diverged.h"
#include "parallel/train/not_finite.h"

namespace upcycle {

void after_skipped_step(TrainingRun& run, Metrics& metrics, const StepResult& result) {
  Trainer& t = run.trainer;
  const TrainConfig& c = t.config.train;
  const bool spike = result.skipped == Skipped::LossSpike;
  const std::string culprit = spike ? "" : find_not_finite(t);
  const std::string what =
      fmt::format("step {}: loss {} and gradient norm {}", t.step + 1, std::abs(result.loss),
                  std::abs(result.grad_norm)) +  // a NaN's sign says nothing
      (spike ? fmt::format(": {:.1f} standard deviations above the last {} losses (train.max_loss_z_score = {:g})",
                           result.z_score, c.loss_window, c.max_loss_z_score)
             : ": " + culprit);
  metrics.skipped(t, result, culprit);
  if (t.skips.in_a_row < c.max_skipped_steps) {
    if (log_rank() == 0)
      log_warn("{}; the step is skipped, sequences {} to {} are passed over ({} in a row, {} in all)", what,
               t.consumed_samples - result.samples + c.skip_samples, t.consumed_samples - 1 + c.skip_samples,
               t.skips.in_a_row, t.skips.total);
    return;
  }
  const std::int64_t in_a_row = t.skips.in_a_row;
  t.skips.in_a_row = 0;  // who starts the run again wants as many again
  throw Diverged(fmt::format("{}; training has diverged: {} in a row {} skipped (train.max_skipped_steps); {}", what,
                             in_a_row == 1 ? "one step" : fmt::format("{} steps", in_a_row),
                             in_a_row == 1 ? "was" : "were", save_before_divergence(run)));
}

}  // namespace upcycle
