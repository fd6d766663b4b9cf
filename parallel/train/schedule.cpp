#include "parallel/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/config/batch_ramp.h"
#include "core/config/check.h"

namespace upcycle {

namespace {

// The highest and, at the end of a decay, the lowest.
struct Peak {
  double lr, min_lr;
};

// Of the whole batch.
double tokens_per_step(const TrainConfig& t) { return static_cast<double>(t.global_batch_size * t.seq_length); }

// In steps of the whole batch; of tokens it need not be a whole number.
double warmup_of(const TrainConfig& t) {
  return t.warmup_tokens > 0 ? static_cast<double>(t.warmup_tokens) / tokens_per_step(t)
                             : static_cast<double>(t.warmup_steps);
}

// All in steps of the whole batch, whole numbers unless it has changed: how far warm-up is (`warm`), how much of it
// this step is (`next`), and the decay (`place` of `total`).
double rate_at(const TrainConfig& t, const Peak& peak, double warm, double next, double place, double total) {
  const double warmup = warmup_of(t);
  if (warm < warmup) return peak.lr * std::min(warm + next, warmup) / warmup;
  if (t.schedule == "constant") return peak.lr;
  double done;  // share of the decay, 1 on the last step
  if (t.schedule == "wsd") {
    const double begin = std::max(warmup, total - std::round(t.decay_fraction * total));
    if (place < begin) return peak.lr;
    done = (place - begin + 1) / std::max(1.0, total - begin);
  } else {
    done = (place - warmup) / std::max(1.0, total - 1 - warmup);
  }
  done = std::clamp(done, 0.0, 1.0);
  const double left = t.schedule == "cosine" ? 0.5 * (1 + std::cos(std::numbers::pi * done)) : 1 - done;
  return peak.min_lr + (peak.lr - peak.min_lr) * left;
}

double rate_of(const Config& c, const Peak& peak, const Trained& done) {
  const TrainConfig& t = c.train;
  const auto step = static_cast<double>(done.step);
  const double in_tokens = static_cast<double>(done.tokens) / tokens_per_step(t);
  const double place = t.steps > 0 ? step : in_tokens;
  const double total =
      t.steps > 0 ? static_cast<double>(t.steps) : static_cast<double>(total_tokens(t, done)) / tokens_per_step(t);
  const double share =
      static_cast<double>(batch_size_at(t, done.tokens / t.seq_length)) / static_cast<double>(t.global_batch_size);
  const bool by_tokens = t.warmup_tokens > 0;
  const double lr = rate_at(t, peak, by_tokens ? in_tokens : step, by_tokens ? share : 1, place, total);
  const double since = step - static_cast<double>(c.upcycle.at_step), warmup = warmup_of(t);  // steps as an MoE
  if (c.upcycle.at_step <= 0 || !c.model.is_moe() || since >= warmup) return lr;
  return lr * std::min(since + 1, warmup) / warmup;
}

}  // namespace

double learning_rate(const TrainConfig& t, std::int64_t step, std::int64_t total) {
  const auto at = static_cast<double>(step);
  return rate_at(t, {t.lr, t.min_lr}, at, 1, at, static_cast<double>(total));
}

double learning_rate(const Config& c, const Trained& done) { return rate_of(c, {c.train.lr, c.train.min_lr}, done); }

LearningRates learning_rates(const Config& c, const Trained& done) {
  const TrainConfig& t = c.train;
  const double general = learning_rate(c, done);
  if (t.decoupled_lr < 0) return {general, general};
  return {general, rate_of(c, {t.decoupled_lr, t.decoupled_min_lr >= 0 ? t.decoupled_min_lr : t.min_lr}, done)};
}

}  // namespace upcycle
