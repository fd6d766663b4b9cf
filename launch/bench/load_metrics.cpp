#include "launch/bench/load_metrics.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/suggest.h"

namespace upcycle {
namespace {

constexpr double kMs = 1e3;

bool inside(double time, const Window& w) { return time >= w.begin && time < w.end; }

double percentile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1), below = std::floor(at);
  const auto i = static_cast<std::size_t>(below);
  return i + 1 < sorted.size() ? sorted[i] + (at - below) * (sorted[i + 1] - sorted[i]) : sorted[i];
}

bool is_good(const RequestRecord& r, const Goodput& limits) {
  return r.ttft() * kMs <= limits.ttft && r.e2el() * kMs <= limits.e2el &&
         (!r.has_tpot() || r.tpot() * kMs <= limits.tpot);
}

struct Samples {
  std::vector<double> ttft, tpot, itl, e2el;
};

void add_request(const RequestRecord& r, const Window& w, LoadMetrics& m, Samples& samples, const Goodput& goodput) {
  if (inside(r.arrival, w)) ++m.drawn;
  if (r.ending == Ending::Failed) {
    ++m.failed;
    ++m.errors[r.error];
    return;
  }
  if (!r.tokens.empty() && inside(r.tokens.front(), w)) m.total_input_tokens += r.prompt_len;
  if (r.tokens.empty()) return;
  const std::int64_t came = std::count_if(r.tokens.begin(), r.tokens.end(), [&](double t) { return inside(t, w); });
  m.total_output_tokens += came * r.output_len / static_cast<std::int64_t>(r.tokens.size());
  if (r.ending != Ending::Completed || !inside(r.end, w)) return;
  ++m.completed;
  m.mean_output += static_cast<double>(r.output_len);
  m.mean_asked += static_cast<double>(r.asked_len);
  if (is_good(r, goodput)) m.request_goodput += 1;
  samples.ttft.push_back(r.ttft() * kMs);
  samples.e2el.push_back(r.e2el() * kMs);
  if (r.has_tpot()) samples.tpot.push_back(r.tpot() * kMs);
  for (std::size_t i = 1; i < r.tokens.size(); ++i) samples.itl.push_back((r.tokens[i] - r.tokens[i - 1]) * kMs);
}

struct StepSums {
  double steps = 0, rows = 0, touched = 0, assignments = 0, bytes = 0;
  double seconds = 0, running_seconds = 0;
};

void add_steps(const WindowedRun& r, StepSums& sums, LoadMetrics& m) {
  for (const StepRecord& step : r.run.steps) {
    if (!inside(step.end, r.window)) continue;
    sums.steps += 1;
    sums.rows += static_cast<double>(step.rows);
    sums.touched += static_cast<double>(step.experts_touched);
    sums.assignments += static_cast<double>(step.assignments);
    sums.bytes += step.weight_bytes;
    sums.seconds += step.end - step.begin;
    sums.running_seconds += static_cast<double>(step.running) * (step.end - step.begin);
    m.preemptions += step.preemptions;
  }
}

double ratio(double a, double b) { return b > 0 ? a / b : 0; }

}  // namespace

Summary summary_of(std::vector<double> values) {
  Summary s;
  if (values.empty()) return s;
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  s.count = static_cast<std::int64_t>(values.size());
  s.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  for (const double x : values) s.std += (x - s.mean) * (x - s.mean) / n;
  s.std = std::sqrt(s.std);
  s.median = percentile(values, 0.5);
  s.p90 = percentile(values, 0.9);
  s.p99 = percentile(values, 0.99);
  return s;
}

Goodput parse_goodput(const std::string& text) {
  Goodput limits;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find_first_of(", ", begin), text.size());
    const std::string part = text.substr(begin, end - begin), name = part.substr(0, part.find(':'));
    begin = end + 1;
    double* const limit = name == "ttft"   ? &limits.ttft
                          : name == "tpot" ? &limits.tpot
                          : name == "e2el" ? &limits.e2el
                                           : nullptr;
    double ms = 0;
    const char* const last = part.data() + part.size();
    const char* const number = part.data() + std::min(part.size(), name.size() + 1);
    const auto [stop, error] = std::from_chars(number, last, ms);
    if (limit == nullptr || error != std::errc{} || stop != last || !(ms > 0))
      input_error("command line: --goodput: found {}, expected limits in ms such as ttft:200,tpot:50,e2el:1000",
                  quote_text(part));
    *limit = ms;
    limits.given = true;
  }
  return limits;
}

Crowd crowd_of(const LoadRun& run, const Window& w, Leaves leaves) {
  std::vector<std::pair<double, int>> events;
  std::int64_t now = 0;
  const auto event = [&](double time, int change) {
    if (time < w.begin) now += change;
    if (inside(time, w)) events.emplace_back(time, change);
  };
  for (const RequestRecord& r : run.requests) {
    event(r.arrival, 1);
    if (leaves == Leaves::AtFirstToken && !r.tokens.empty()) {
      event(r.tokens.front(), -1);
    } else if (r.ending != Ending::Unfinished) {
      event(r.end, -1);
    }
  }
  std::sort(events.begin(), events.end());  // who leaves goes first
  Crowd crowd{now, 0};
  double since = w.begin;
  for (const auto& [time, change] : events) {
    crowd.mean += static_cast<double>(now) * (time - since);
    since = time;
    now += change;
    crowd.most = std::max(crowd.most, now);
  }
  crowd.mean = ratio(crowd.mean + static_cast<double>(now) * (w.end - since), w.seconds());
  return crowd;
}

LoadMetrics metrics_of(std::span<const WindowedRun> runs, const Goodput& goodput) {
  LoadMetrics m;
  Samples samples;
  StepSums sums;
  double generator = 0, time = 0;
  for (const WindowedRun& r : runs) {
    m.duration += r.window.seconds();
    for (const RequestRecord& request : r.run.requests) add_request(request, r.window, m, samples, goodput);
    add_steps(r, sums, m);
    const Crowd queue = crowd_of(r.run, r.window, Leaves::AtFirstToken);
    m.queue_max = std::max(m.queue_max, queue.most);
    m.queue_mean += queue.mean * r.window.seconds();
    generator += r.run.generator_cpu;
    for (const StepRecord& step : r.run.steps) time += step.end - step.begin;
  }
  m.queue_mean = ratio(m.queue_mean, m.duration);
  m.request_throughput = ratio(static_cast<double>(m.completed), m.duration);
  m.mean_output = ratio(m.mean_output, static_cast<double>(m.completed));
  m.mean_asked = ratio(m.mean_asked, static_cast<double>(m.completed));
  m.request_goodput = ratio(m.request_goodput, m.duration);
  m.output_throughput = ratio(static_cast<double>(m.total_output_tokens), m.duration);
  m.total_token_throughput = ratio(static_cast<double>(m.total_input_tokens + m.total_output_tokens), m.duration);
  m.ttft = summary_of(std::move(samples.ttft));
  m.tpot = summary_of(std::move(samples.tpot));
  m.itl = summary_of(std::move(samples.itl));
  m.e2el = summary_of(std::move(samples.e2el));
  m.running_mean = ratio(sums.running_seconds, sums.seconds);
  m.experts_per_step = ratio(sums.touched, sums.steps);
  m.tokens_per_expert = ratio(sums.assignments, sums.touched);
  m.weight_bytes_per_token = ratio(sums.bytes, sums.rows);
  m.generator_share = ratio(generator, time);
  return m;
}

}  // namespace upcycle
