#include "parallel/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/config/check.h"

namespace upcycle {

namespace {

// `place` of `total`: how far the decay is at this step, in steps of the present batch. Whole numbers unless the batch
// has changed.
double rate_at(const TrainConfig& t, std::int64_t step, double place, double total) {
  const auto warmup = static_cast<double>(t.warmup_steps);
  if (step < t.warmup_steps) return t.lr * static_cast<double>(step + 1) / warmup;
  if (t.schedule == "constant") return t.lr;
  double done;  // share of the decay, 1 on the last step
  if (t.schedule == "wsd") {
    const double begin = std::max(warmup, total - std::round(t.decay_fraction * total));
    if (place < begin) return t.lr;
    done = (place - begin + 1) / std::max(1.0, total - begin);
  } else {
    done = (place - warmup) / std::max(1.0, total - 1 - warmup);
  }
  done = std::clamp(done, 0.0, 1.0);
  const double left = t.schedule == "cosine" ? 0.5 * (1 + std::cos(std::numbers::pi * done)) : 1 - done;
  return t.min_lr + (t.lr - t.min_lr) * left;
}

}  // namespace

double learning_rate(const TrainConfig& t, std::int64_t step, std::int64_t total) {
  return rate_at(t, step, static_cast<double>(step), static_cast<double>(total));
}

double learning_rate(const Config& c, const Trained& done) {
  const TrainConfig& t = c.train;
  const std::int64_t step = done.step, total = total_steps(t, done);
  double lr = learning_rate(t, step, total);
  if (t.steps == 0) {
    const double place = static_cast<double>(done.tokens) / static_cast<double>(t.global_batch_size * t.seq_length);
    lr = rate_at(t, step, place, place + static_cast<double>(total - step));
  }
  const std::int64_t since = step - c.upcycle.at_step;  // steps as an MoE
  if (c.upcycle.at_step <= 0 || !c.model.is_moe() || since >= t.warmup_steps) return lr;
  return lr * static_cast<double>(since + 1) / static_cast<double>(t.warmup_steps);
}

}  // namespace upcycle
