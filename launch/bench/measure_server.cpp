#include "launch/bench/measure_server.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace upcycle {
namespace {

constexpr double kForever = std::numeric_limits<double>::infinity();
// A quick run's parts of its time, and the rates it expects to measure.
constexpr double kOfflinePart = 0.15, kCalibrationPart = 0.05, kCapacityPart = 0.2;
constexpr double kQuickRates = 7, kThoroughRates = 10;

double round_to_two_digits(double x) {
  const double unit = std::pow(10, std::floor(std::log10(x)) - 1);
  return std::round(x / unit) * unit;
}

void say(const BenchPlan& plan, const std::string& line) {
  if (plan.say) plan.say(line);
}

// One request by itself, the second time: the first may wait for memory to be laid out.
double seconds_alone(Server& server, const Workload& workload, const std::string& name) {
  double seconds = 0;
  for (int i = 0; i < 2; ++i) {
    const LoadRun run = drive(server, draw_requests(workload, {0}, 0), kForever);
    if (run.requests[0].ending == Ending::Failed)
      input_error("{}: the first request failed: {}", name, run.requests[0].error);
    seconds = run.duration;
  }
  return seconds;
}

double seconds_of_a_rate(const BenchPlan& plan) {
  return (1 - kOfflinePart - kCalibrationPart - kCapacityPart) * plan.seconds / kQuickRates;
}
double window_of(double seconds, std::int64_t repetitions) {
  return seconds / (static_cast<double>(repetitions) * (1 + 2 * kDrainShare));
}

// Near capacity a request takes about twice as long as alone, and an MoE may take twice as long as the first server.
constexpr double kSlower = 3;

void shorten(Server& server, BenchPlan& plan, Measured& m) {
  Workload& w = plan.workload;
  const auto fits = [&](double alone) {
    return kSlower * kWindowLatencies * alone <= window_of(seconds_of_a_rate(plan), plan.repetitions);
  };
  double alone = seconds_alone(server, w, m.model.name);
  const std::int64_t input = w.input_len, output = w.output_len;
  while (plan.may_shorten && !fits(alone) && w.input_len >= 32 && w.output_len >= 8) {
    w.input_len /= 2;
    w.output_len /= 2;
    alone = seconds_alone(server, w, m.model.name);
  }
  plan.may_shorten = false;
  if (w.input_len < input)
    m.notes.push_back(
        fmt::format("lengths were shortened from {} in and {} out so that windows hold five latencies", input, output));
  if (!fits(alone) && plan.repetitions > 1) {
    plan.repetitions = 1;
    m.notes.push_back("one repetition: the time is too short for more");
  }
}

void measure_batches(Server& server, const BenchPlan& plan, double seconds, Measured& m) {
  const double begin = server.now();
  double longest = 0;
  if (*std::max_element(plan.batches.begin(), plan.batches.end()) > m.model.max_num_seqs)
    m.notes.push_back(
        fmt::format("offline: batches above the {} sequences that run at once were left out", m.model.max_num_seqs));
  for (const std::int64_t B : plan.batches) {
    if (B > m.model.max_num_seqs) continue;
    if (server.now() - begin + 2 * longest > seconds) {
      m.notes.push_back(fmt::format("offline: no time for batch {} and more", B));
      return;
    }
    const double since = server.now();
    const auto measure = [&] {
      return measure_offline(server, plan.workload.input_len, plan.workload.output_len, B, m.model.vocab_size,
                             m.model.max_model_len);
    };
    auto row = measure();
    longest = server.now() - since;
    if (row && server.now() - begin + 2 * longest <= seconds) row = measure();  // memory is laid out now
    if (row) m.offline.push_back(*row);
    if (!row) m.notes.push_back(fmt::format("offline: the cache or max-model-len is too small for batch {}", B));
  }
}

// Prompts of few and of many tokens, decoding of few and of many sequences; the better of two.
void measure_for_calibration(Server& server, double seconds, Measured& m) {
  constexpr std::int64_t kSteps = 6;
  const double begin = server.now();
  for (const auto& [PP, B] :
       {std::pair<std::int64_t, std::int64_t>{16, 1}, {16, 4}, {16, 16}, {16, 32}, {128, 1}, {128, 8}}) {
    if (B > m.model.max_num_seqs) continue;
    const auto measure = [&, PP = PP, B = B] {
      return measure_offline(server, PP, kSteps, B, m.model.vocab_size, m.model.max_model_len);
    };
    auto row = measure();
    const auto again = row && server.now() - begin < seconds ? measure() : row;
    if (row && again) {
      row->T_PP = std::min(row->T_PP, again->T_PP);
      row->T_TG = std::min(row->T_TG, again->T_TG);
      m.calibration.push_back(*row);
    }
    if (server.now() - begin > seconds) return;
  }
}

}  // namespace

Measured measure_server(Server& server, const ServedModel& model, BenchPlan& plan) {
  Measured m;
  m.model = model;
  const bool quick = std::isfinite(plan.seconds);
  const double begin = server.now();
  if (quick) {
    shorten(server, plan, m);
  } else {
    (void)seconds_alone(server, plan.workload, model.name);
  }
  if (model.in_steps) {
    say(plan, fmt::format("{}: prefill and decoding by batch", model.name));
    measure_batches(server, plan, kOfflinePart * plan.seconds, m);
    if (plan.calibrate) measure_for_calibration(server, quick ? kCalibrationPart * plan.seconds : kForever, m);
  }
  say(plan, fmt::format("{}: capacity", model.name));
  m.capacity = measure_capacity(server, plan.workload, 4 * model.max_num_seqs,
                                quick ? kCapacityPart * plan.seconds : kForever, plan.repetitions, plan.goodput);
  if (m.capacity.metrics.completed == 0)
    input_error("{}: found no request that completed, expected some: {}", model.name,
                m.capacity.metrics.errors.empty() ? "no reason is known" : m.capacity.metrics.errors.begin()->first);
  if (m.capacity.metrics.mean_output < m.capacity.metrics.mean_asked)
    m.notes.push_back(fmt::format("mean output {:.4g} of {:.4g} tokens asked for: the server ends requests before that",
                                  m.capacity.metrics.mean_output, m.capacity.metrics.mean_asked));
  if (plan.rate_step == 0)
    plan.rate_step = round_to_two_digits(m.capacity.request_throughput / (quick ? kQuickRates - 1 : kThoroughRates));
  m.options.rate_step = plan.rate_step;
  m.options.most_rates = plan.most_rates;
  m.options.repetitions = plan.repetitions;
  m.options.goodput = plan.goodput;
  m.options.window_grows = plan.thorough;
  m.options.window = std::max(m.options.window, 1.2 * kWindowLatencies * m.capacity.one_alone);
  if (quick) {
    m.options.seconds = plan.seconds - (server.now() - begin);
    // Up to two rates beyond the capacity, and some time for steps that begin in one run and end after it.
    const double rates = (std::ceil(m.capacity.request_throughput / plan.rate_step) + 2) / 0.95;
    m.options.window =
        std::min(60.0, window_of(m.options.seconds / std::min(rates, 2 * kQuickRates), plan.repetitions));
  }
  m.options.say = plan.say;
  m.sweep = sweep_rates(server, plan.workload, m.options);
  if (!m.sweep.ended.empty()) m.notes.push_back("the sweep ended because of " + m.sweep.ended);
  const auto tokens = server.expert_tokens();
  m.expert_tokens.assign(tokens.begin(), tokens.end());
  return m;
}

Slowdown compare(const Measured& model, const Measured& baseline, const Workload& workload,
                 const Predict& predict_model, const Predict& predict_baseline) {
  Slowdown s;
  double lowest = 0;
  for (const RatePoint& b : baseline.sweep.points) {
    for (const RatePoint& a : model.sweep.points) {
      if (a.rate != b.rate || a.metrics.completed == 0 || b.metrics.completed == 0) continue;
      EqualRate at{a.rate, a.metrics.e2el.mean / b.metrics.e2el.mean, {}, a.sustained_by_all(), b.sustained_by_all()};
      if (predict_model && predict_baseline) {
        SweepOptions options = model.options;
        options.window = a.window;
        options.window_grows = false;
        const double moe = measure_rate(*predict_model(), workload, a.rate, options).metrics.e2el.mean;
        options.window = b.window;
        const double dense = measure_rate(*predict_baseline(), workload, a.rate, options).metrics.e2el.mean;
        if (moe > 0 && dense > 0) at.predicted = moe / dense;
      }
      s.at_rate.push_back(at);
    }
  }
  for (const RatePoint& b : baseline.sweep.points)
    if (b.metrics.completed > 0 && (lowest == 0 || b.metrics.e2el.mean < lowest)) lowest = b.metrics.e2el.mean;
  for (const double times : {1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0}) {
    const EqualLatency at{times * lowest, throughput_at(model.sweep.points, times * lowest),
                          throughput_at(baseline.sweep.points, times * lowest)};
    if (at.model_tokens_per_s > 0 && at.baseline_tokens_per_s > 0) s.at_latency.push_back(at);
  }
  return s;
}

}  // namespace upcycle
