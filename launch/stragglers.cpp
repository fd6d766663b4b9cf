#include "launch/stragglers.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <sstream>
#include <utility>

#include "core/check.h"
#include "core/log.h"
#include "core/trace.h"
#include "parallel/comm/late_looks.h"

namespace upcycle {
namespace {

using Clock = std::chrono::steady_clock;

// Time in waits, but for what others waited for this rank to see that it could go on.
double waits_for_others() { return waited_seconds() - late_look_seconds(); }

// 0.5: the median, of an even number the lower one in the middle.
double quantile(std::vector<double> values, double share) {
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

// Seconds in which this thread could have run but had no core: Linux's run delay. -1: the system does not say.
double no_core_seconds() {
  std::FILE* const file = std::fopen("/proc/thread-self/schedstat", "r");
  if (file == nullptr) return -1;
  unsigned long long ran = 0, delayed = 0;
  const bool read = std::fscanf(file, "%llu %llu", &ran, &delayed) == 2;
  std::fclose(file);
  return read ? static_cast<double>(delayed) / 1e9 : -1;
}

// Of a rank's experts, from the sums over all ranks: a replica's share is not told apart from the others'.
double assignments_of(std::span<const double> experts, const Layout& layout, int rank) {
  const std::size_t here = experts.size() / static_cast<std::size_t>(layout.ep);
  const auto mine = experts.subspan(static_cast<std::size_t>(coordinates_of(layout, rank).ep) * here, here);
  double sum = 0;
  for (const double n : mine) sum += n;
  return sum / layout.edp;
}

// In at least three figures.
std::string ms(double seconds) {
  return seconds >= 1 ? fmt::format("{:.0f} ms", seconds * 1e3) : fmt::format("{:.3g} ms", seconds * 1e3);
}

}  // namespace

RankTimes compare_ranks(std::span<const RankTime> ranks, double ratio) {
  UPCYCLE_CHECK(!ranks.empty(), "the times of no rank");
  double needed = ranks[0].waited;
  for (const RankTime& r : ranks) needed = std::min(needed, r.waited);
  std::vector<double> alone, assignments;
  for (const RankTime& r : ranks) {
    alone.push_back(r.own + needed);
    assignments.push_back(r.assignments);
  }
  const auto longest = std::max_element(alone.begin(), alone.end());
  RankTimes times{quantile(alone, 0.5), *longest, static_cast<int>(longest - alone.begin()), {}};
  const double usual = quantile(assignments, 0.5);
  for (std::size_t r = 0; r < ranks.size(); ++r)
    if (alone[r] > ratio * times.median)
      times.slow.push_back({.rank = static_cast<int>(r),
                            .seconds = alone[r],
                            .ratio = alone[r] / times.median,
                            .assignments_ratio = usual > 0 ? assignments[r] / usual : 0,
                            .no_core = ranks[r].no_core});
  return times;
}

std::string straggler_line(const Straggler& s, const RankTimes& times, double ratio) {
  // Where the router gives it work enough for half of what it takes too long, the host is not the first suspect.
  const bool more_to_do = s.assignments_ratio - 1 >= (s.ratio - 1) / 2;
  std::string line = fmt::format(
      "rank {} on {} {}: by itself it takes {} for a step, {:.2f} times the median rank's {}, and the others wait "
      "for it (train.straggler_ratio = {:g})",
      s.rank, s.host, more_to_do ? "has more to do" : "is slow", ms(s.seconds), s.ratio, ms(times.median), ratio);
  if (s.assignments_ratio > 0)
    line += fmt::format("; its experts computed {:.2f} times the median rank's tokens", s.assignments_ratio);
  if (s.no_core >= 0) line += fmt::format("; for {} of a step other work had its core", ms(s.no_core));
  return line;
}

Stragglers::Stragglers(const Mesh& mesh, const std::string& host, const TrainConfig& config)
    : mesh_(mesh), every_(mesh.layout.world > 1 ? config.straggler_every : 0), ratio_(config.straggler_ratio) {
  if (every_ == 0) return;
  std::istringstream names(mesh.world->gather_text(host + "\n"));
  for (std::string name; std::getline(names, name);) hosts_.push_back(name);
}

void Stragglers::before_step() {
  if (every_ == 0) return;
  waited_ = waits_for_others();
  no_core_ = no_core_seconds();
  begin_ = Clock::now();
}

std::optional<RankTimes> Stragglers::after_step(std::int64_t step, const StepResult& result) {
  if (every_ == 0) return {};
  // The first one makes primitives and reads pages in.
  if (!std::exchange(first_, false)) count(result);
  if (step % every_ != 0) return {};
  // After a restart the first of these steps are missing: of too few, one that was interrupted would speak for all.
  const bool enough = !own_.empty() && 2 * static_cast<std::int64_t>(own_.size()) >= every_;
  std::optional<RankTimes> times;
  if (enough) times = compare();
  own_.clear();
  waits_.clear();
  sum_no_core_ = 0;
  assignments_.clear();
  if (times && mesh_.rank == 0)
    for (const Straggler& s : times->slow) log_warn("step {}: {}", step, straggler_line(s, *times, ratio_));
  return times;
}

void Stragglers::count(const StepResult& result) {
  const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
  waits_.push_back(waits_for_others() - waited_);
  own_.push_back(seconds - waits_.back());
  sum_no_core_ += no_core_seconds() - no_core_;
  for (const RouterMetrics& layer : result.layers) {
    if (layer.assignments.size() > assignments_.size()) assignments_.resize(layer.assignments.size());
    for (std::size_t e = 0; e < layer.assignments.size(); ++e)
      assignments_[e] += static_cast<double>(layer.assignments[e]);
  }
}

RankTimes Stragglers::compare() {
  const auto steps = static_cast<double>(own_.size());
  std::istringstream text(mesh_.world->gather_text(
      fmt::format("{} {} {} ", quantile(own_, 0.25), quantile(waits_, 0.5), no_core_ < 0 ? -1 : sum_no_core_ / steps)));
  std::vector<RankTime> ranks;
  for (RankTime r; text >> r.own >> r.waited >> r.no_core; ranks.push_back(r))
    r.assignments = assignments_of(assignments_, mesh_.layout, static_cast<int>(ranks.size())) / steps;
  RankTimes times = compare_ranks(ranks, ratio_);
  for (Straggler& s : times.slow) s.host = hosts_[static_cast<std::size_t>(s.rank)];
  return times;
}

}  // namespace upcycle
