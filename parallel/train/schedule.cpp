#include "parallel/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace upcycle {

double learning_rate(const TrainConfig& t, std::int64_t step, std::int64_t total) {
  if (step < t.warmup_steps) return t.lr * static_cast<double>(step + 1) / static_cast<double>(t.warmup_steps);
  if (t.schedule == "constant") return t.lr;
  double done;  // of the fall, 1 on the last step
  if (t.schedule == "wsd") {
    const std::int64_t begin =
        std::max(t.warmup_steps, total - std::lround(t.decay_fraction * static_cast<double>(total)));
    if (step < begin) return t.lr;
    done = static_cast<double>(step - begin + 1) / static_cast<double>(std::max<std::int64_t>(1, total - begin));
  } else {
    done = static_cast<double>(step - t.warmup_steps) /
           static_cast<double>(std::max<std::int64_t>(1, total - 1 - t.warmup_steps));
  }
  done = std::min(1.0, done);
  const double left = t.schedule == "cosine" ? 0.5 * (1 + std::cos(std::numbers::pi * done)) : 1 - done;
  return t.min_lr + (t.lr - t.min_lr) * left;
}

double learning_rate(const Config& c, std::int64_t step) {
  const double lr = learning_rate(c.train, step, total_steps(c.train));
  const std::int64_t since = step - c.upcycle.at_step;  // steps as an MoE
  if (c.upcycle.at_step <= 0 || !c.model.is_moe() || since >= c.train.warmup_steps) return lr;
  return lr * static_cast<double>(since + 1) / static_cast<double>(c.train.warmup_steps);
}

std::int64_t total_steps(const TrainConfig& t) {
  if (t.steps > 0) return t.steps;
  const std::int64_t step = t.global_batch_size * t.seq_length;
  return (t.tokens + step - 1) / step;
}

}  // namespace upcycle
