#include <fmt/core.h>

#include "launch/study/page/curve_charts.h"
#include "launch/study/page/sections.h"

// Training curves of the study's runs, by cell.
namespace upcycle::study_page {
namespace {

Curve curve_of(const Json& curve, const Json& run) {
  Curve c{numbers(part(curve, "tokens")), numbers(part(curve, "loss")), {}, {}};
  // Of FLOPs and time the report has the run's totals: both grow evenly with its tokens.
  const double tokens = number(run, "tokens");
  for (const double t : c.tokens) {
    c.flops.push_back(t * number(run, "flops") / tokens);
    c.seconds.push_back(t * number(run, "wall_seconds") / tokens);
  }
  return c;
}

TrainedRun trained(const View& v, const Json& run) {
  const std::string arm = words(run, "arm");
  const int step = v.step(number(run, "budget"));
  TrainedRun t{words(run, "name"),
               "",
               {v.color(arm), v.shape(arm, step), step},
               !arm.empty() && arm != v.baseline && arm != v.candidate,
               curve_of(part(run, "curve"), run),
               {}};
  t.legend = arm.empty() ? "pretraining, " + v.name(grid_of(run)) : arm + ", budget " + v.budget(number(run, "budget"));
  if (arm.empty()) t.look = {charts::quiet_color, v.shape(grid_of(run)), v.shape(grid_of(run))};
  const Json& held_out = part(run, "held_out");
  if (held_out.is_object())
    for (const auto& [set, curve] : held_out.items()) t.held_out[set] = curve_of(curve, run);
  return t;
}

}  // namespace

charts::Section curves_section(const View& v) {
  charts::Section s{
      "curves", "Training curves",
      "Loss during training, from the evaluations and steps of each run; runs that differ only in their seed look "
      "the same. FLOPs and time of a point are its share of the run's totals. An "
      "arrow at the upper edge is a loss above it.",
      "", "No run has steps yet."};
  std::string others;
  const std::vector<std::string> sets = {v.new_set, v.old_set};
  for (const Grid& grid : v.grids) {
    std::vector<TrainedRun> runs;
    bool verdict = false;
    for (const Json* run : v.results())
      if (grid_of(*run) == grid) {
        runs.push_back(trained(v, *run));
        verdict = verdict || v.in_verdict_cell(*run);
      }
    const std::string html = curve_charts(runs, sets, v.name(grid));
    (verdict ? s.body : others) += html;
  }
  std::vector<TrainedRun> pretraining;
  for (const Json& run : part(v.report, "runs"))
    if (words(run, "arm").empty() && !numbers(part(part(run, "curve"), "tokens")).empty())
      pretraining.push_back(trained(v, run));
  others += curve_charts(pretraining, sets, "Pretraining");
  if (!others.empty() && !s.body.empty())
    s.body += "<details><summary>Curves of the other cells and of pretraining</summary>\n" + others + "</details>\n";
  else
    s.body += others;
  return s;
}

}  // namespace upcycle::study_page
