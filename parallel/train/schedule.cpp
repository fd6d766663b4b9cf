#include "parallel/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace upcycle {

double learning_rate(const TrainConfig& t, std::int64_t step, std::int64_t total) {
  if (step < t.warmup_steps) return t.lr * static_cast<double>(step + 1) / static_cast<double>(t.warmup_steps);
  if (t.schedule == "constant") return t.lr;
  // The fall ends at min_lr on the last step.
  std::int64_t begin = t.warmup_steps;
  if (t.schedule == "wsd") begin = std::max(begin, total - std::lround(t.decay_fraction * static_cast<double>(total)));
  if (step < begin) return t.lr;
  const std::int64_t length = std::max<std::int64_t>(1, total - 1 - begin);
  const double done = std::min(1.0, static_cast<double>(step - begin) / static_cast<double>(length));
  const double left = t.schedule == "cosine" ? 0.5 * (1 + std::cos(std::numbers::pi * done)) : 1 - done;
  return t.min_lr + (t.lr - t.min_lr) * left;
}

std::int64_t total_steps(const TrainConfig& t) {
  if (t.steps > 0) return t.steps;
  const std::int64_t step = t.global_batch_size * t.seq_length;
  return (t.tokens + step - 1) / step;
}

}  // namespace upcycle
