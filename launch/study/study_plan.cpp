#include "launch/study/study_plan.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "launch/study/arm_model.h"
#include "parallel/model/params.h"
#include "parallel/plan/plan.h"

namespace upcycle {

std::vector<StudyRun> planned_runs(const Study& study) {
  const auto middle = [](const StudyArm& arm, const Cell& cell) -> std::optional<double> {
    return arm.rates(cell.size)[arm.rates(cell.size).size() / 2];
  };
  const auto same_flops = [&](const std::string& size, const std::string& arm) -> std::optional<double> {
    const ModelConfig model = arm_model(study, study.size(size), &study.arm(arm));
    // Sequences of any length will do: what counts is the arms' ratio.
    return 1e12 / training_flops_per_token(model, std::min<std::int64_t>(256, model.max_position_embeddings));
  };
  return known_runs(study, middle, same_flops);
}

RunFiles files_of(const Study& study, const StudyRun& run) {
  Config config = run.config;
  config.device = "cpu";  // files are the same, and this build may not know another
  const PlannedRun planned{config, {}, [](const OpLimits&) { return std::size_t{0}; }};
  const Plan plan = make_plan(planned, static_cast<int>(study.launch.ranks));
  const CheckpointConfig& c = run.config.checkpoint;
  const std::int64_t saves = c.every > 0 ? (run.config.train.steps + c.every - 1) / c.every : 1;
  const std::int64_t most = c.keep > 0 ? std::min(c.keep + 1, saves) : saves;
  return {plan.files_total, plan.files_total * static_cast<std::size_t>(most)};
}

namespace {

struct Sum {
  std::int64_t runs = 0;
  double tokens = 0, flops = 0;
  std::size_t kept = 0;
  void add(const StudyRun& run, const RunFiles& files) {
    ++runs;
    tokens += run.flops > 0 ? static_cast<double>(run.tokens) * run.own_flops / run.flops : 0;
    flops += run.own_flops;
    kept += files.kept;
  }
};

std::string kind_of(const StudyRun& run) {
  if (run.kind == "pretraining") return run.arm.empty() ? "pretraining" : "pretraining, " + run.arm;
  if (run.kind == "trunk") return "trunks, " + (run.arm.empty() ? "pretraining" : run.arm);
  return run.arm + (run.result ? "" : ", only for its learning rate");
}

}  // namespace

void print_study_plan(const Study& study, const std::vector<StudyRun>& planned, const PlanRates& rates, bool json) {
  std::vector<std::string> order;
  std::map<std::string, Sum> sums;
  Sum all;
  std::map<std::string, RunFiles> files;  // the same for all runs of a model
  std::size_t most = 0;
  for (const StudyRun& run : planned) {
    const std::string key = run.cell.size + run.arm + run.kind;
    if (!files.contains(key)) files[key] = files_of(study, run);
    const std::string kind = kind_of(run);
    if (!sums.contains(kind)) order.push_back(kind);
    sums[kind].add(run, files[key]);
    all.add(run, files[key]);
    most = std::max(most, files[key].most);
  }
  const std::size_t disk = all.kept + most * static_cast<std::size_t>(study.launch.at_once);
  const double hours = all.flops / (rates.mfu * rates.peak) / 3600;
  const char* count = study.flops == FlopsCount::Paper ? "paper" : "causal";
  if (json) {
    Json j{{"name", study.name},    {"flops_convention", count}, {"kinds", Json::array()}, {"runs", all.runs},
           {"tokens", all.tokens},  {"flops", all.flops},        {"mfu", rates.mfu},       {"peak_flops", rates.peak},
           {"device_hours", hours}, {"file_bytes", disk},        {"list", Json::array()}};
    for (const std::string& kind : order)
      j["kinds"].push_back(
          {{"kind", kind}, {"runs", sums[kind].runs}, {"tokens", sums[kind].tokens}, {"flops", sums[kind].flops}});
    for (const StudyRun& run : planned)
      j["list"].push_back({{"name", run.name},
                           {"tokens", run.tokens},
                           {"flops", run.flops},
                           {"own_flops", run.own_flops},
                           {"steps", run.config.train.steps},
                           {"sweep", run.sweep},
                           {"result", run.result}});
    fmt::print("{}\n", j.dump());
    return;
  }
  fmt::print("{}: {} runs; FLOPs counted as '{}'\n\n", study.name, all.runs, count);
  fmt::print("  {:<44}{:>6}{:>12}{:>12}\n", "", "runs", "tokens", "FLOPs");
  for (const std::string& kind : order)
    fmt::print("  {:<44}{:>6}{:>12.3g}{:>12.3g}\n", kind, sums[kind].runs, sums[kind].tokens, sums[kind].flops);
  fmt::print("  {:<44}{:>6}{:>12.3g}{:>12.3g}\n\n", "all", all.runs, all.tokens, all.flops);
  fmt::print("{:.3g} device-hours at {:.0f} % of {:.3g} FLOP/s (--mfu, --peak)\n", hours, 100 * rates.mfu, rates.peak);
  fmt::print("files: {:.3g} GB when finished, {:.3g} GB at most\n", static_cast<double>(all.kept) / 1e9,
             static_cast<double>(disk) / 1e9);
}

}  // namespace upcycle
