#include "parallel/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/config/check.h"

namespace upcycle {

namespace {

double tokens_per_step(const TrainConfig& t) { return static_cast<double>(t.global_batch_size * t.seq_length); }

// In steps of the present batch; of tokens it need not be a whole number.
double warmup_of(const TrainConfig& t) {
  return t.warmup_tokens > 0 ? static_cast<double>(t.warmup_tokens) / tokens_per_step(t)
                             : static_cast<double>(t.warmup_steps);
}

// All in steps of the present batch, whole numbers unless it has changed: how far warm-up is (`warm`) and the decay
// (`place` of `total`).
double rate_at(const TrainConfig& t, double warm, double place, double total) {
  const double warmup = warmup_of(t);
  if (warm < warmup) return t.lr * std::min(warm + 1, warmup) / warmup;
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
  return rate_at(t, static_cast<double>(step), static_cast<double>(step), static_cast<double>(total));
}

double learning_rate(const Config& c, const Trained& done) {
  const TrainConfig& t = c.train;
  const auto step = static_cast<double>(done.step);
  const double in_tokens = static_cast<double>(done.tokens) / tokens_per_step(t);
  const double place = t.steps > 0 ? step : in_tokens, left = static_cast<double>(total_steps(t, done) - done.step);
  const double lr = rate_at(t, t.warmup_tokens > 0 ? in_tokens : step, place, place + left);
  const double since = step - static_cast<double>(c.upcycle.at_step), warmup = warmup_of(t);  // steps as an MoE
  if (c.upcycle.at_step <= 0 || !c.model.is_moe() || since >= warmup) return lr;
  return lr * std::min(since + 1, warmup) / warmup;
}

}  // namespace upcycle
