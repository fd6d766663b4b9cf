#include "launch/study/run_metrics.h"

#include <cmath>
#include <cstdint>
#include <filesystem>

#include "core/error.h"
#include "core/log.h"
#include "launch/run_curves.h"

namespace upcycle {
namespace {

constexpr std::size_t kMostPoints = 200;

// Without the points whose loss is no number.
Json curve_json(const RunCurves::Curve& c) {
  Json tokens = Json::array(), loss = Json::array();
  for (std::size_t i = 0; i < c.tokens.size(); ++i) {
    if (!std::isfinite(c.loss[i])) continue;
    tokens.push_back(c.tokens[i]);
    loss.push_back(c.loss[i]);
  }
  return {{"tokens", tokens}, {"loss", loss}};
}

}  // namespace

CurvesJson curves_json(const std::string& folder, const std::vector<std::pair<std::string, std::string>>& sets) {
  RunCurves curves;
  std::error_code none;
  try {
    if (std::filesystem::exists(folder + "/metrics.jsonl", none)) curves = read_run_curves(folder, kMostPoints);
  } catch (const InputError& e) {
    log_warn("the report has no curves of a run: {}", e.what());
  }
  CurvesJson json{curve_json(curves.training), Json::object(), {}};
  for (const auto& [set, prefix] : sets)
    if (const auto found = curves.held_out.find(set); found != curves.held_out.end())
      json.held_out[set] = curve_json(found->second);
  if (!curves.layers.empty())
    json.load = {{"tokens", curves.load_tokens},
                 {"layers", std::vector<std::int64_t>(curves.layers.begin(), curves.layers.end())},
                 {"max_over_mean", curves.max_over_mean},
                 {"entropy", curves.entropy}};
  return json;
}

}  // namespace upcycle
