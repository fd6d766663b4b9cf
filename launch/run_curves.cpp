#include "launch/run_curves.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/config/parse.h"
#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/suggest.h"
#include "data/files.h"
#include "launch/file_lines.h"
#include "parallel/model/params.h"

namespace upcycle {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMostLoads = 60, kMostShares = 24;

struct Step {
  double tokens = 0, loss = 0, seconds = 0, tokens_per_s = 0;
  std::vector<double> layers, load, entropy;
  std::vector<double> assigned;  // to each expert of each layer
};
struct Evaluation {
  double tokens = 0, loss = 0;
};
struct Lines {
  std::map<std::int64_t, Step> steps;
  std::map<std::string, std::map<std::int64_t, Evaluation>> held_out;
};

// False, or a Json::exception, where it is no line of ours.
bool take(const Json& line, Lines& lines) {
  const Json::number_unsigned_t given = line.at("step").get_ref<const Json::number_unsigned_t&>();
  const auto step = static_cast<std::int64_t>(given);
  if (step < 0) return false;  // too large
  // A loss that is no number is written as null: the run ended there.
  const auto number = [](const Json& v) { return v.is_number() ? v.get<double>() : NAN; };
  if (line.contains("eval")) {
    const auto& set = line.at("eval").get_ref<const std::string&>();
    if (std::any_of(set.begin(), set.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; })) return false;
    lines.held_out[set][step] = {line.at("tokens"), number(line.at("eval_loss"))};
    return true;
  }
  if (line.contains("skipped")) return true;
  Step s{line.at("tokens"),
         number(line.at("loss")),
         line.value("step_ms", 0.0) / 1e3,
         line.value("tokens_per_s", 0.0),
         {},
         {},
         {},
         {}};
  for (const Json& layer : line.value("moe_layers", Json::array())) {
    s.layers.push_back(layer.at("layer"));
    s.load.push_back(number(layer.at("load_max_over_mean")));
    s.entropy.push_back(number(layer.at("router_entropy")));
    for (const Json& tokens : layer.value("tokens_per_expert", Json::array())) s.assigned.push_back(number(tokens));
  }
  lines.steps.erase(lines.steps.lower_bound(step), lines.steps.end());
  for (auto& [set, evaluations] : lines.held_out) evaluations.erase(evaluations.lower_bound(step), evaluations.end());
  lines.steps.emplace(step, std::move(s));
  return true;
}

Lines read_lines(const std::string& run) {
  const std::string file = run + "/metrics.jsonl";
  std::error_code none;
  if (!std::filesystem::is_directory(run, none))
    input_error("{}: found no folder, expected that of a run: `upcycle train` writes it to checkpoint.dir", run);
  if (!std::filesystem::is_regular_file(file, none))
    input_error("{}: found no metrics.jsonl, expected a run folder that `upcycle train` wrote", run);
  Lines lines;
  std::string wrong;  // of the last line it is forgiven: a run that goes on, or was killed, is just writing it
  for_each_line(file, "step", [&](const std::string& where, const std::string& text) {
    if (!wrong.empty()) input_error("{}, expected a line of `upcycle train`: remove it", wrong);
    bool good = false;
    try {
      good = !nested_too_deeply(text) && take(Json::parse(text), lines);
    } catch (const Json::exception&) {  // said below
    }
    if (!good) wrong = fmt::format("{}: found {}", where, quote_text(text.substr(0, 40)));
  });
  if (lines.steps.empty()) input_error("{}: found no step, expected one per line: train first", file);
  return lines;
}

// Rows of tokens, loss, seconds, FLOPs.
RunCurves::Curve curve_of(const std::vector<std::vector<double>>& rows, std::size_t most, bool has_flops) {
  RunCurves::Curve curve;
  for (const std::vector<double>& row : thinned(rows, most)) {
    curve.tokens.push_back(row[0]);
    curve.loss.push_back(row[1]);
    curve.seconds.push_back(row[2]);
    if (has_flops) curve.flops.push_back(row[3]);
  }
  return curve;
}

void add_loads(const Lines& lines, RunCurves& curves) {
  for (const auto& [number, step] : lines.steps)  // those of the end; a step that diverged may have none
    if (!step.layers.empty()) curves.layers = step.layers;
  const auto L = static_cast<std::ptrdiff_t>(curves.layers.size());
  if (L == 0) return;
  std::vector<std::vector<double>> rows;
  for (const auto& [number, step] : lines.steps) {
    if (step.layers != curves.layers) continue;  // before a live run became an MoE
    rows.push_back({step.tokens});
    rows.back().insert(rows.back().end(), step.load.begin(), step.load.end());
    rows.back().insert(rows.back().end(), step.entropy.begin(), step.entropy.end());
  }
  for (const std::vector<double>& row : thinned(rows, kMostLoads)) {
    curves.load_tokens.push_back(row[0]);
    curves.max_over_mean.emplace_back(row.begin() + 1, row.begin() + 1 + L);
    curves.entropy.emplace_back(row.begin() + 1 + L, row.end());
  }
}

void add_shares(const Lines& lines, RunCurves& curves) {
  const std::size_t L = curves.layers.size(), all = L == 0 ? 0 : lines.steps.rbegin()->second.assigned.size();
  if (all == 0 || all % L != 0) return;
  std::vector<std::vector<double>> rows;
  for (const auto& [number, step] : lines.steps) {
    if (step.assigned.size() != all) continue;
    rows.push_back({step.tokens});
    rows.back().insert(rows.back().end(), step.assigned.begin(), step.assigned.end());
  }
  const std::size_t E = all / L;
  for (const std::vector<double>& row : thinned(rows, kMostShares)) {
    curves.share_tokens.push_back(row[0]);
    std::vector<std::vector<double>> layers;
    for (auto at = row.begin() + 1; at != row.end(); at += static_cast<std::ptrdiff_t>(E)) {
      std::vector<double> shares(at, at + static_cast<std::ptrdiff_t>(E));
      const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
      for (double& share : shares) share = sum > 0 ? share / sum : 0;
      layers.push_back(shares);
    }
    curves.shares.push_back(layers);
  }
}

}  // namespace

std::vector<std::vector<double>> thinned(const std::vector<std::vector<double>>& rows, std::size_t most) {
  const std::size_t n = std::min(rows.size(), most);
  std::vector<std::vector<double>> all;
  for (std::size_t piece = 0; piece < n; ++piece) {
    const std::size_t begin = piece * rows.size() / n, end = (piece + 1) * rows.size() / n;
    std::vector<double> mean(rows[begin].size());
    for (std::size_t r = begin; r < end; ++r)
      for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += rows[r][i] / static_cast<double>(end - begin);
    all.push_back(mean);
  }
  return all;
}

RunCurves read_run_curves(const std::string& run, std::size_t most) {
  const Lines lines = read_lines(run);
  const std::string config_file = run + "/run.json";
  const bool has_flops = std::filesystem::exists(config_file);
  double dense = 0, moe = 0;  // FLOPs of a token
  if (has_flops) {
    Config c = parse_config_text(read_regular_text(config_file, config_bytes_max), config_file, {});
    moe = training_flops_per_token(c.model, c.train.seq_length);
    c.model.num_local_experts = 0;
    dense = training_flops_per_token(c.model, c.train.seq_length);
  }
  RunCurves curves;
  std::vector<std::vector<double>> rows;
  std::map<std::int64_t, std::pair<double, double>> spent{{0, {0, 0}}};  // after each step: seconds, FLOPs
  double seconds = 0, flops = 0, tokens = 0;
  for (const auto& [number, step] : lines.steps) {
    seconds += step.seconds;
    flops += (step.tokens - tokens) * (step.layers.empty() ? dense : moe);
    tokens = step.tokens;
    spent[number] = {seconds, flops};
    rows.push_back({step.tokens, step.loss, seconds, flops});
  }
  curves.training = curve_of(rows, most, has_flops);
  for (const auto& [set, evaluations] : lines.held_out) {
    rows.clear();
    for (const auto& [number, e] : evaluations) {
      const auto& [time, work] = std::prev(spent.upper_bound(number))->second;
      rows.push_back({e.tokens, e.loss, time, work});
    }
    curves.held_out[set] = curve_of(rows, most, has_flops);
  }
  add_loads(lines, curves);
  add_shares(lines, curves);
  return curves;
}

RunEnd read_run_end(const std::string& run, std::int64_t last_steps) {
  const Lines lines = read_lines(run);
  RunEnd end;
  std::vector<double> rates;
  for (const auto& [number, step] : lines.steps) rates.push_back(step.tokens_per_s);
  const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2);
  std::nth_element(rates.begin(), middle, rates.end());
  end.tokens_per_s = *middle;
  const auto n = std::min(last_steps, static_cast<std::int64_t>(lines.steps.size()));
  auto step = lines.steps.rbegin();
  for (std::int64_t i = 0; i < n; ++i) end.loss += step++->second.loss / static_cast<double>(n);
  return end;
}

}  // namespace upcycle
