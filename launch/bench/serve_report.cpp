#include "launch/bench/serve_report.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "launch/bench/throughput_svg.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;

Json percentiles(const Summary& s) { return {{"p50", s.median}, {"p90", s.p90}, {"p99", s.p99}}; }

// An entry of `load`: ours first, then vLLM's names.
Json load_json(const LoadMetrics& m, const Json& rate, const ServedModel& model, bool goodput) {
  Json j{{"rate", rate},
         {"tokens_per_s", m.total_token_throughput},
         {"ttft_ms", percentiles(m.ttft)},
         {"tpot_ms", percentiles(m.tpot)},
         {"itl_ms", percentiles(m.itl)},
         {"e2e_ms", percentiles(m.e2el)},
         {"drawn", m.drawn},
         {"completed", m.completed},
         {"failed", m.failed},
         {"errors", m.errors},
         {"queue_max", m.queue_max},
         {"queue_mean", m.queue_mean},
         {"generator_cpu_share", m.generator_share},
         {"duration", m.duration},
         {"total_input_tokens", m.total_input_tokens},
         {"total_output_tokens", m.total_output_tokens},
         {"request_throughput", m.request_throughput},
         {"request_goodput", goodput ? Json(m.request_goodput) : Json()},
         {"output_throughput", m.output_throughput},
         {"total_token_throughput", m.total_token_throughput}};
  for (const auto& [name, s] :
       {std::pair<const char*, const Summary&>{"ttft", m.ttft}, {"tpot", m.tpot}, {"itl", m.itl}, {"e2el", m.e2el}}) {
    j[fmt::format("mean_{}_ms", name)] = s.mean;
    j[fmt::format("median_{}_ms", name)] = s.median;
    j[fmt::format("std_{}_ms", name)] = s.std;
    j[fmt::format("p99_{}_ms", name)] = s.p99;
  }
  if (!model.in_steps) return j;
  j["running_mean"] = m.running_mean;
  j["preemptions"] = m.preemptions;
  j["weight_bytes_per_token"] = m.weight_bytes_per_token;
  if (model.moe_layers == 0) return j;
  j["experts_per_step_and_layer"] = m.experts_per_step / static_cast<double>(model.moe_layers);
  j["tokens_per_expert"] = m.tokens_per_expert;
  return j;
}

Json point_json(const RatePoint& p, const Measured& m) {
  Json j = load_json(p.metrics, p.rate, m.model, m.options.goodput.given);
  j["sustained"] = p.sustained_by_all();
  j["window_s"] = p.window;
  j["repetitions"] = Json::array();
  for (const Verdict& v : p.verdicts)
    j["repetitions"].push_back({{"sustained", v.sustained},
                                {"completed_share", v.completed_share},
                                {"in_system_first_third", v.crowd_first},
                                {"in_system_last_third", v.crowd_last}});
  j["tokens_per_s_std"] = p.tokens_per_s.std;
  return j;
}

Json measured_json(const Measured& m) {
  const Layout& l = m.model.layout;
  Json j{{"name", m.model.name}};
  j["layout"] =
      m.model.in_steps ? Json{{"ranks", l.world}, {"tp", l.tp}, {"ep", l.ep}, {"etp", l.etp}, {"dp", l.dp}} : Json();
  j["offline"] = j["load"] = Json::array();
  for (const OfflineRow& r : m.offline)
    j["offline"].push_back({{"batch", r.B},
                            {"prefill_tokens_per_s", r.S_PP()},
                            {"decode_tokens_per_s", r.S_TG()},
                            {"pp", r.PP},
                            {"tg", r.TG},
                            {"n_kv", r.N_KV()},
                            {"t_pp", r.T_PP},
                            {"t_tg", r.T_TG},
                            {"t", r.T()},
                            {"speed", r.S()}});
  for (const RatePoint& p : m.sweep.points) j["load"].push_back(point_json(p, m));
  if (!m.expert_tokens.empty()) j["expert_tokens"] = m.expert_tokens;
  j["max_rate"] = m.sweep.max_rate;
  j["max_rate_range"] = {m.sweep.max_rate_low, m.sweep.max_rate_high};
  j["sweep_ended"] = m.sweep.ended.empty() ? Json() : Json(m.sweep.ended);
  j["rate_step"] = m.options.rate_step;
  j["capacity"] = load_json(m.capacity.metrics, "inf", m.model, m.options.goodput.given);
  j["capacity"]["requests_at_once"] = m.capacity.requests;
  j["capacity"]["request_throughput_range"] = {m.capacity.request_throughput_low, m.capacity.request_throughput_high};
  j["one_request_s"] = m.capacity.one_alone;
  j["notes"] = m.notes;
  return j;
}

void print_offline(const Measured& m) {
  if (m.offline.empty()) return;
  fmt::print("\n|{:>6} |{:>6} |{:>4} |{:>7} |{:>9} |{:>9} |{:>9} |{:>9} |{:>9} |{:>9} |\n", "PP", "TG", "B", "N_KV",
             "T_PP s", "S_PP t/s", "T_TG s", "S_TG t/s", "T s", "S t/s");
  fmt::print("|{:->6}-|{:->6}-|{:->4}-|{:->7}-|{:->9}-|{:->9}-|{:->9}-|{:->9}-|{:->9}-|{:->9}-|\n", "", "", "", "", "",
             "", "", "", "", "");
  for (const OfflineRow& r : m.offline)
    fmt::print("|{:>6} |{:>6} |{:>4} |{:>7} |{:>9.3f} |{:>9.2f} |{:>9.3f} |{:>9.2f} |{:>9.3f} |{:>9.2f} |\n", r.PP,
               r.TG, r.B, r.N_KV(), r.T_PP, r.S_PP(), r.T_TG, r.S_TG(), r.T(), r.S());
}

void print_load_row(const std::string& rate, const LoadMetrics& m, const std::string& ending) {
  const auto three = [](const Summary& s) { return fmt::format("{:.3g} {:.3g} {:.3g}", s.mean, s.median, s.p99); };
  fmt::print(
      "| {:>6} | {:>6.3g} | {:>8.0f} | {:>8.0f} | {:>17} | {:>14} | {:>14} | {:>17} | {:>5} | {:>4} | {:>4} | {} |\n",
      rate, m.request_throughput, m.output_throughput, m.total_token_throughput, three(m.ttft), three(m.tpot),
      three(m.itl), three(m.e2el), m.completed, m.failed, m.queue_max, ending);
}

void print_load(const Measured& m) {
  fmt::print("\n| {:>6} | {:>6} | {:>8} | {:>8} | {:>17} | {:>14} | {:>14} | {:>17} | {:>5} | {:>4} | {:>4} | {} |\n",
             "rate/s", "done/s", "out t/s", "all t/s", "TTFT ms", "TPOT ms", "ITL ms", "E2EL ms", "done", "fail",
             "queue", "sustained");
  fmt::print("|{:->8}|{:->8}|{:->10}|{:->10}|{:->19}|{:->16}|{:->16}|{:->19}|{:->7}|{:->6}|{:->7}|{:->11}|\n", "", "",
             "", "", "", "", "", "", "", "", "", "");
  for (const RatePoint& p : m.sweep.points)
    print_load_row(fmt::format("{:.4g}", p.rate), p.metrics,
                   p.sustained_by_all()   ? "yes"
                   : p.sustained_by_any() ? "sometimes"
                                          : "no");
  print_load_row("inf", m.capacity.metrics, fmt::format("{} at once", m.capacity.requests));
  if (m.options.goodput.given) {
    fmt::print("good requests per second, at each rate:");
    for (const RatePoint& p : m.sweep.points) fmt::print(" {:.3g}", p.metrics.request_goodput);
    fmt::print("\n");
  }
  fmt::print("(milliseconds: mean, median, p99; queue: most requests that waited for their first token)\n");
}

void print_weights(const Measured& m) {
  if (!m.model.in_steps) return;
  const bool moe = m.model.moe_layers > 0;
  fmt::print("\n| rate/s | weight MB read per token |{}\n|---|---|{}\n",
             moe ? " experts a step touched, per layer, of all replicas | tokens per expert |" : "",
             moe ? "---|---|" : "");
  const auto row = [&](const std::string& rate, const LoadMetrics& x) {
    fmt::print("| {} | {:.4g} |", rate, x.weight_bytes_per_token / 1e6);
    if (moe)
      fmt::print(" {:.2f} | {:.2f} |", x.experts_per_step / static_cast<double>(m.model.moe_layers),
                 x.tokens_per_expert);
    fmt::print("\n");
  };
  for (const RatePoint& p : m.sweep.points) row(fmt::format("{:.4g}", p.rate), p.metrics);
  row("inf", m.capacity.metrics);
}

// All failures of the load runs, by reason.
std::map<std::string, std::int64_t> failures(const Measured& m) {
  std::map<std::string, std::int64_t> all = m.capacity.metrics.errors;
  for (const RatePoint& p : m.sweep.points)
    for (const auto& [reason, n] : p.metrics.errors) all[reason] += n;
  return all;
}

double generator_share(const Measured& m) {
  double most = m.capacity.metrics.generator_share;
  for (const RatePoint& p : m.sweep.points) most = std::max(most, p.metrics.generator_share);
  return most;
}

void print_measured(const Measured& m) {
  fmt::print("\n## {}\n", m.model.name);
  const Layout& l = m.model.layout;
  if (m.model.in_steps)
    fmt::print("\n{} rank{}: tp={} ep={} etp={}, {} replica{}\n", l.world, l.world == 1 ? "" : "s", l.tp, l.ep, l.etp,
               l.dp, l.dp == 1 ? "" : "s");
  print_offline(m);
  print_load(m);
  print_weights(m);
  fmt::print(
      "\nhighest rate sustained {:.4g} requests/s ({:.3g} to {:.3g} in {} repetition{}, steps of {:.3g}); capacity "
      "{:.3g} ({:.3g} to {:.3g}); one request alone {:.3g} s\n",
      m.sweep.max_rate, m.sweep.max_rate_low, m.sweep.max_rate_high, m.options.repetitions,
      m.options.repetitions == 1 ? "" : "s", m.options.rate_step, m.capacity.request_throughput,
      m.capacity.request_throughput_low, m.capacity.request_throughput_high, m.capacity.one_alone);
  fmt::print("the load generator's own CPU: at most {:.2g} % of the time in which the server had work\n",
             100 * generator_share(m));
  for (const auto& [reason, n] : failures(m)) fmt::print("failed {} time{}: {}\n", n, n == 1 ? "" : "s", reason);
  for (const std::string& note : m.notes) fmt::print("note: {}\n", note);
}

// A sweep that ended for another reason than the queue has no highest rate to compare.
bool both_found(const Measured& model, const Measured& baseline) {
  return model.sweep.ended.empty() && baseline.sweep.ended.empty() && model.sweep.max_rate > 0 &&
         baseline.sweep.max_rate > 0;
}

double below(double model, double baseline) { return baseline > 0 ? 100 * (1 - model / baseline) : 0; }

void print_slowdown(const Slowdown& s, const Measured& model, const Measured& baseline) {
  fmt::print("\n## {} beside {}\n\n| at | {} | {} | |\n|---|---|---|---|\n", model.model.name, baseline.model.name,
             "MoE", "dense");
  const auto point = [](const Measured& m, double rate) -> const LoadMetrics& {
    for (const RatePoint& p : m.sweep.points)
      if (p.rate == rate) return p.metrics;
    return m.capacity.metrics;
  };
  const auto latency = [&](const Measured& m, double rate, bool sustained) {
    return fmt::format("{:.0f} ms{}", point(m, rate).e2el.mean, sustained ? "" : " (not sustained)");
  };
  for (const EqualRate& r : s.at_rate)
    fmt::print("| {:.3g} requests/s | {} | {} | {}{} |\n", r.rate, latency(model, r.rate, r.model_sustained),
               latency(baseline, r.rate, r.baseline_sustained),
               r.measured ? fmt::format("{:.2f} x as long", *r.measured) : "",
               r.predicted ? fmt::format("{}predicted {:.2f}", r.measured ? ", " : "", *r.predicted) : "");
  for (const EqualLatency& l : s.at_latency)
    fmt::print("| {:.0f} ms mean latency | {:.0f} tokens/s | {:.0f} tokens/s | {:.0f} % below |\n", l.e2e_ms,
               l.model_tokens_per_s, l.baseline_tokens_per_s, below(l.model_tokens_per_s, l.baseline_tokens_per_s));
  if (both_found(model, baseline))
    fmt::print("| highest rate | {:.3g} requests/s | {:.3g} requests/s | {:.0f} % below |\n", model.sweep.max_rate,
               baseline.sweep.max_rate, below(model.sweep.max_rate, baseline.sweep.max_rate));
  fmt::print("| capacity | {:.3g} requests/s | {:.3g} requests/s | {:.0f} % below |\n",
             model.capacity.request_throughput, baseline.capacity.request_throughput,
             below(model.capacity.request_throughput, baseline.capacity.request_throughput));
}

std::string lengths_of(const Workload& w) {
  if (!w.file.empty()) return fmt::format("{} requests of a file in turn", w.file.size());
  const std::string range = w.range_ratio > 0 ? fmt::format(", each uniform within {:.0f} %", 100 * w.range_ratio) : "";
  return fmt::format("{} tokens in, {} out{}", w.input_len, w.output_len, range);
}

std::string windows_of(const ServeReport& r) {
  return r.plan.thorough ? "windows of at least 60 s and 5 latencies"
                         : fmt::format("short windows ({:.2g} s; --thorough: at least 60 s and 5 latencies)",
                                       r.model.options.window);
}

}  // namespace

Json to_json(const ServeReport& r) {
  const Workload& w = r.plan.workload;
  Json j;
  j["setup"] = {{"input_len", w.input_len},
                {"output_len", w.output_len},
                {"random_range_ratio", w.range_ratio},
                {"requests_of_file", w.file.size()},
                {"burstiness", w.burstiness},
                {"seed", w.seed},
                {"thorough", r.plan.thorough},
                {"repetitions", r.plan.repetitions},
                {"rule", kRule},
                {"windows", windows_of(r)},
                {"predicted", !r.predicted_for.empty()}};
  j["setup"]["machine"] = r.predicted_for.empty() ? Json() : Json(r.predicted_for);
  j["model"] = measured_json(r.model);
  j["baseline"] = r.baseline ? measured_json(*r.baseline) : Json();
  j["slowdown"] = Json::array();
  for (const EqualRate& s : r.slowdown.at_rate)
    j["slowdown"].push_back({{"rate", s.rate},
                             {"measured", s.measured ? Json(*s.measured) : Json()},
                             {"predicted", s.predicted ? Json(*s.predicted) : Json()},
                             {"sustained", {{"model", s.model_sustained}, {"baseline", s.baseline_sustained}}}});
  j["slowdown_at_equal_latency"] = Json::array();
  for (const EqualLatency& s : r.slowdown.at_latency)
    j["slowdown_at_equal_latency"].push_back({{"e2e_ms", s.e2e_ms},
                                              {"model_tokens_per_s", s.model_tokens_per_s},
                                              {"baseline_tokens_per_s", s.baseline_tokens_per_s},
                                              {"slowdown", s.baseline_tokens_per_s / s.model_tokens_per_s}});
  j["slowdown_at_max_rate"] = r.baseline && both_found(r.model, *r.baseline)
                                  ? Json(r.baseline->sweep.max_rate / r.model.sweep.max_rate)
                                  : Json();
  j["slowdown_at_capacity"] =
      r.baseline ? Json(r.baseline->capacity.request_throughput / r.model.capacity.request_throughput) : Json();
  return j;
}

void print_report(const ServeReport& r) {
  if (!r.predicted_for.empty()) fmt::print("\nall of this is predicted, for {}\n", r.predicted_for);
  fmt::print("\n{}; seed {}; {}\na rate is sustained if {}\n", lengths_of(r.plan.workload), r.plan.workload.seed,
             windows_of(r), kRule);
  if (r.baseline) print_measured(*r.baseline);
  print_measured(r.model);
  if (r.baseline) print_slowdown(r.slowdown, r.model, *r.baseline);
}

std::string svg_of(const ServeReport& r) {
  std::vector<Curve> curves;
  const auto add = [&](const Measured& m) {
    curves.push_back({m.model.name, {}});
    for (const RatePoint& p : m.sweep.points)
      if (p.metrics.completed > 0)
        curves.back().points.push_back(
            {p.metrics.e2el.mean / 1e3, p.metrics.total_token_throughput, p.sustained_by_all()});
  };
  add(r.model);
  if (r.baseline) add(*r.baseline);
  return throughput_svg(curves);
}

}  // namespace upcycle
