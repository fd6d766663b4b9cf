#include "launch/study/run_metrics.h"

#include <algorithm>
#include <fstream>

namespace upcycle {
namespace {

constexpr std::size_t kMostPoints = 200, kMostLoads = 60;

struct Step {
  std::int64_t tokens = 0;
  double loss = 0;
  std::vector<std::int64_t> layers;
  std::vector<double> load, entropy;  // of each of these
};
struct Lines {
  std::map<std::int64_t, Step> steps;
  std::map<std::string, std::map<std::int64_t, std::pair<std::int64_t, double>>> held_out;  // set, step: tokens, loss
};

void read_step(const Json& line, Lines& lines) {
  Step step{line.at("tokens"), line.at("loss"), {}, {}, {}};
  for (const Json& layer : line.value("moe_layers", Json::array())) {
    step.layers.push_back(layer.at("layer"));
    step.load.push_back(layer.at("load_max_over_mean"));
    step.entropy.push_back(layer.at("router_entropy"));
  }
  lines.steps[line.at("step")] = std::move(step);
}

Lines read_lines(const std::string& file) {
  Lines lines;
  std::ifstream in(file);
  for (std::string text; std::getline(in, text);) {
    const Json line = Json::parse(text, nullptr, false);
    if (!line.is_object()) continue;  // half a line: its writer was killed
    try {
      if (line.contains("eval"))
        lines.held_out[line.at("eval")][line.at("step")] = {line.at("tokens"), line.at("eval_loss")};
      else
        read_step(line, lines);
    } catch (const Json::exception&) {  // a loss that is no number is null: not a point of a curve
    }
  }
  return lines;
}

// {"tokens": [...], "loss": [...]} of rows (tokens, loss).
Json curve_json(const std::vector<std::vector<double>>& rows) {
  Json tokens = Json::array(), loss = Json::array();
  for (const std::vector<double>& row : rows) {
    tokens.push_back(row[0]);
    loss.push_back(row[1]);
  }
  return {{"tokens", tokens}, {"loss", loss}};
}

Json load_json(const Lines& lines) {
  if (lines.steps.empty()) return {};
  const std::vector<std::int64_t>& layers = lines.steps.rbegin()->second.layers;
  if (layers.empty()) return {};
  std::vector<std::vector<double>> rows;  // tokens, load of each layer, entropy of each
  for (const auto& [number, step] : lines.steps) {
    if (step.layers != layers) continue;
    rows.push_back({static_cast<double>(step.tokens)});
    rows.back().insert(rows.back().end(), step.load.begin(), step.load.end());
    rows.back().insert(rows.back().end(), step.entropy.begin(), step.entropy.end());
  }
  Json tokens = Json::array(), load = Json::array(), entropy = Json::array();
  const auto L = static_cast<std::ptrdiff_t>(layers.size());
  for (const std::vector<double>& row : thinned(rows, kMostLoads)) {
    tokens.push_back(row[0]);
    load.push_back(std::vector<double>(row.begin() + 1, row.begin() + 1 + L));
    entropy.push_back(std::vector<double>(row.begin() + 1 + L, row.end()));
  }
  return {{"tokens", tokens}, {"layers", layers}, {"max_over_mean", load}, {"entropy", entropy}};
}

}  // namespace

std::vector<std::vector<double>> thinned(const std::vector<std::vector<double>>& rows, std::size_t most) {
  const std::size_t n = std::min(rows.size(), most);
  std::vector<std::vector<double>> result;
  for (std::size_t piece = 0; piece < n; ++piece) {
    const std::size_t begin = piece * rows.size() / n, end = (piece + 1) * rows.size() / n;
    std::vector<double> mean(rows[begin].size(), 0.0);
    for (std::size_t r = begin; r < end; ++r)
      for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += rows[r][i];
    for (double& x : mean) x /= static_cast<double>(end - begin);
    result.push_back(std::move(mean));
  }
  return result;
}

RunCurves read_curves(const std::string& folder, const std::vector<std::pair<std::string, std::string>>& sets) {
  const Lines lines = read_lines(folder + "/metrics.jsonl");
  RunCurves curves;
  std::vector<std::vector<double>> rows;
  for (const auto& [number, step] : lines.steps) rows.push_back({static_cast<double>(step.tokens), step.loss});
  curves.curve = curve_json(thinned(rows, kMostPoints));
  curves.held_out = Json::object();
  for (const auto& [set, prefix] : sets) {
    const auto found = lines.held_out.find(set);
    if (found == lines.held_out.end()) continue;
    rows.clear();
    for (const auto& [number, point] : found->second) rows.push_back({static_cast<double>(point.first), point.second});
    curves.held_out[set] = curve_json(thinned(rows, kMostPoints));
  }
  curves.load = load_json(lines);
  return curves;
}

}  // namespace upcycle
