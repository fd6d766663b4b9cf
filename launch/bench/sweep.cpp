#include "launch/bench/sweep.h"

#include <algorithm>
#include <cmath>

#include "core/rng.h"

namespace upcycle {
namespace {

constexpr double kForever = std::numeric_limits<double>::infinity();
constexpr double kMostTokens = 4e8;  // of a run: prompts take four bytes each, times of new tokens eight

WindowedRun run_at_once(Server& server, const Workload& workload, std::int64_t requests, std::uint64_t number) {
  WindowedRun r;
  r.run =
      drive(server, draw_requests(workload, std::vector<double>(static_cast<std::size_t>(requests)), number), kForever);
  r.window = {0, std::nextafter(r.run.duration, kForever)};  // the last token is inside
  return r;
}

WindowedRun run_at_rate(Server& server, const Workload& workload, double rate, double window, std::uint64_t number) {
  WindowedRun r;
  const double ramp = kDrainShare * window;
  r.window = {ramp, ramp + window};
  const double stop = r.window.end + kDrainShare * window;
  r.run = drive(server, draw_requests(workload, draw_arrivals(workload, rate, stop, number), number), stop);
  return r;
}

// Arrivals of a rate are the same for every server.
std::uint64_t number_of(double rate, std::int64_t repetition) {
  return rng::key_of(fmt::format("{} requests/s, {}", rate, repetition));
}

}  // namespace

Capacity measure_capacity(Server& server, const Workload& workload, std::int64_t most, double seconds,
                          std::int64_t repetitions, const Goodput& goodput) {
  Capacity c;
  std::vector<WindowedRun> last;
  double spent = 0;
  std::uint64_t number = 1;
  for (std::int64_t n = 1;; n = std::min(2 * n, most)) {
    last.clear();
    last.push_back(run_at_once(server, workload, n, number++));
    const double took = last.back().run.duration;
    spent += took;
    c.requests = n;
    if (n == 1) c.one_alone = took;
    // Twice as many take at most twice as long, the repetitions as long each.
    if (n == most || spent + 2 * took * static_cast<double>(repetitions) > seconds) break;
  }
  while (static_cast<std::int64_t>(last.size()) < repetitions && spent + last.back().run.duration <= seconds) {
    last.push_back(run_at_once(server, workload, c.requests, number++));
    spent += last.back().run.duration;
  }
  c.metrics = metrics_of(last, goodput);
  std::vector<double> rates;
  for (const WindowedRun& r : last) rates.push_back(metrics_of(std::span(&r, 1), goodput).request_throughput);
  c.request_throughput = c.metrics.request_throughput;
  c.request_throughput_low = *std::min_element(rates.begin(), rates.end());
  c.request_throughput_high = *std::max_element(rates.begin(), rates.end());
  return c;
}

bool RatePoint::sustained_by_all() const {
  return std::all_of(verdicts.begin(), verdicts.end(), [](const Verdict& v) { return v.sustained; });
}
bool RatePoint::sustained_by_any() const {
  return std::any_of(verdicts.begin(), verdicts.end(), [](const Verdict& v) { return v.sustained; });
}

RatePoint measure_rate(Server& server, const Workload& workload, double rate, const SweepOptions& options) {
  RatePoint point;
  point.rate = rate;
  point.window = options.window;
  for (;;) {
    std::vector<WindowedRun> runs;
    std::vector<double> tokens_per_s;
    point.verdicts.clear();
    double needed = 0;
    for (std::int64_t i = 0; i < options.repetitions; ++i) {
      runs.push_back(run_at_rate(server, workload, rate, point.window, number_of(rate, i)));
      point.verdicts.push_back(judge(runs.back()));
      tokens_per_s.push_back(metrics_of(std::span(&runs.back(), 1), options.goodput).total_token_throughput);
      needed = std::max(needed, point.verdicts.back().grows ? 0 : kWindowLatencies * point.verdicts.back().latency);
    }
    if (options.window_grows && needed > point.window) {
      point.window = 1.2 * needed;
      continue;
    }
    point.metrics = metrics_of(runs, options.goodput);
    point.tokens_per_s = summary_of(tokens_per_s);
    return point;
  }
}

Sweep sweep_rates(Server& server, const Workload& workload, const SweepOptions& options) {
  Sweep s;
  std::vector<double> highest(static_cast<std::size_t>(options.repetitions));
  const double begin = server.now();
  for (std::int64_t i = 1; i <= options.most_rates; ++i) {
    const double rate = std::round(static_cast<double>(i) * options.rate_step * 1e9) / 1e9;  // 0.3, not 3 * 0.1
    const double takes = static_cast<double>(options.repetitions) * options.window * (1 + 2 * kDrainShare);
    const double tokens =
        rate * options.window * (1 + 2 * kDrainShare) * static_cast<double>(workload.input_len + workload.output_len);
    if (tokens > kMostTokens) {
      s.ended = "memory: the requests of higher rates are too many to be drawn before their run";
      break;
    }
    if (server.now() - begin + takes > options.seconds) {
      s.ended = "time: higher rates were not tried";
      break;
    }
    s.points.push_back(measure_rate(server, workload, rate, options));
    const RatePoint& point = s.points.back();
    if (options.say)
      options.say(fmt::format("{:.3g} requests/s: {:.0f} tokens/s, mean latency {:.0f} ms, {}", rate,
                              point.metrics.total_token_throughput, point.metrics.e2el.mean,
                              point.sustained_by_all()   ? "sustained"
                              : point.sustained_by_any() ? "not sustained by all repetitions"
                                                         : "not sustained"));
    for (std::size_t r = 0; r < highest.size(); ++r)
      if (point.verdicts[r].sustained) highest[r] = rate;
    if (!point.sustained_by_any()) break;
    if (i == options.most_rates) s.ended = "the number of rates: higher ones were not tried";
  }
  const Summary found = summary_of(highest);
  s.max_rate = found.median;
  s.max_rate_low = *std::min_element(highest.begin(), highest.end());
  s.max_rate_high = *std::max_element(highest.begin(), highest.end());
  return s;
}

double throughput_at(const std::vector<RatePoint>& points, double latency) {
  double best = 0;
  for (std::size_t i = 1; i < points.size(); ++i) {
    const LoadMetrics &a = points[i - 1].metrics, &b = points[i].metrics;
    const double low = a.e2el.mean, high = b.e2el.mean;
    if (std::min(low, high) > latency || std::max(low, high) < latency || low == high) continue;
    const double t = a.total_token_throughput +
                     (latency - low) / (high - low) * (b.total_token_throughput - a.total_token_throughput);
    best = std::max(best, t);
  }
  return best;
}

}  // namespace upcycle
