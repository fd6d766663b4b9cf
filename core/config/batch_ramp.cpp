#include "core/config/batch_ramp.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace upcycle {
namespace {

constexpr std::int64_t forever = std::numeric_limits<std::int64_t>::max();

struct Ramp {
  std::int64_t start, increment, samples, increments;

  // Increments made after `consumed` sequences. In doubles, as Python divides.
  std::int64_t level(std::int64_t consumed) const {
    if (consumed > samples) return increments;
    const double each = static_cast<double>(samples) / static_cast<double>(increments);
    return std::min(increments, static_cast<std::int64_t>(static_cast<double>(consumed) / each));
  }
  // The first count of sequences with more increments than `level`, which is not the last.
  std::int64_t end_of(std::int64_t level_now) const {
    const double each = static_cast<double>(samples) / static_cast<double>(increments);
    auto end = static_cast<std::int64_t>(std::ceil(static_cast<double>(level_now + 1) * each));
    while (level(end) <= level_now) ++end;  // the estimate is rounded
    while (end > 0 && level(end - 1) > level_now) --end;
    return end;
  }
};

Ramp ramp_of(const TrainConfig& t) {
  const std::vector<std::int64_t>& r = t.rampup_batch_size;
  return {r[0], r[1], r[2], (t.global_batch_size - r[0]) / r[1]};
}

// Steps of one size, from `consumed` on.
struct Stretch {
  std::int64_t batch, steps;
};
Stretch stretch_at(const TrainConfig& t, std::int64_t consumed) {
  if (!ramps_batch(t)) return {t.global_batch_size, forever};
  const Ramp ramp = ramp_of(t);
  const std::int64_t level = ramp.level(consumed), batch = ramp.start + level * ramp.increment;
  if (level == ramp.increments) return {batch, forever};
  return {batch, (ramp.end_of(level) - consumed + batch - 1) / batch};
}

}  // namespace

bool ramps_batch(const TrainConfig& t) {
  const std::vector<std::int64_t>& r = t.rampup_batch_size;
  return r.size() == 3 && *std::min_element(r.begin(), r.end()) > 0 && t.global_batch_size - r[0] >= r[1];
}

std::int64_t batch_size_at(const TrainConfig& t, std::int64_t consumed) { return stretch_at(t, consumed).batch; }

std::int64_t samples_in(const TrainConfig& t, std::int64_t consumed, std::int64_t steps) {
  const std::int64_t before = consumed;
  while (steps > 0) {
    const Stretch s = stretch_at(t, consumed);
    const std::int64_t n = std::min(s.steps, steps);
    consumed += n * s.batch;
    steps -= n;
  }
  return consumed - before;
}

std::int64_t steps_for(const TrainConfig& t, std::int64_t consumed, std::int64_t samples) {
  std::int64_t steps = 0;
  const std::int64_t end = consumed + samples;
  while (consumed < end) {
    const Stretch s = stretch_at(t, consumed);
    const std::int64_t n = std::min(s.steps, (end - consumed + s.batch - 1) / s.batch);
    consumed += n * s.batch;
    steps += n;
  }
  return steps;
}

}  // namespace upcycle
