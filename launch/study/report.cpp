#include "launch/study/report.h"

#include <algorithm>
#include <set>

#include "launch/study/break_even.h"
#include "launch/study/comparisons.h"
#include "launch/study/costs.h"
#include "launch/study/notes.h"
#include "launch/study/paper_figures.h"
#include "launch/study/report_runs.h"
#include "launch/study/sweeps.h"
#include "launch/study/verdict.h"
#include "launch/study/wording.h"

namespace upcycle {
namespace {

std::string flops_rule(FlopsCount count) {
  if (count == FlopsCount::Paper)
    return "As arXiv 2411.08968 counts: 6 for each parameter in use of a token's matrix products, and attention "
           "without "
           "its causal half, 12 L S N D; input embedding, norms and routers left out.";
  return "6 for each parameter in use of a token's matrix products, and causal attention, 6 L S N D.";
}

std::string schedule_text(const Study& study, const std::vector<StudyResult>& results) {
  if (study.trunk) return "branches of one warm-up-stable-decay trunk";
  std::set<std::string> names;
  for (const StudyResult& r : results)
    if (r.run.kind == "arm") names.insert(r.run.config.train.schedule);
  return fmt::format("each run its own schedule to its end ({})",
                     names.empty() ? "not known" : listed({names.begin(), names.end()}));
}

const char* match_text(Match match) {
  return match == Match::Flops ? "flops" : match == Match::Tokens ? "tokens" : "wall_time";
}

Json study_json(const Study& study, const std::vector<StudyResult>& results, const Json& runs,
                const std::vector<RateSweep>& sweeps, const std::vector<ServingResult>& serving,
                const TrainingRates& rates) {
  std::string machine;
  for (const ServingResult& s : serving)
    if (s.source == "measured") machine = s.machine;
  return {{"name", study.name},
          {"file", study.file},
          {"flops", study.flops == FlopsCount::Paper ? "paper" : "causal"},
          {"flops_rule", flops_rule(study.flops)},
          {"match", match_text(study.match)},
          {"schedule", schedule_text(study, results)},
          {"baseline", study.baseline},
          {"candidate", study.candidate},
          {"old_set", study.old_set},
          {"new_set", study.new_set},
          {"verdict_cell",
           {{"size", study.verdict.size}, {"duration", study.verdict.duration}, {"budget", study.verdict.budget}}},
          {"budgets_in_tokens", study.budgets_in_tokens},
          {"seeds", std::max(study.seeds, study.verdict_seeds)},
          {"dtype", results.empty() ? "" : results.front().run.config.dtype},
          {"ranks", study.launch.ranks},
          {"devices", study.launch.ranks},
          {"machine", machine},
          {"notes", notes(study, results, runs, sweeps, serving, rates)}};
}

Json cloze_json(const Study::Cloze& c) {
  if (c.items == 0) return {};
  return {
      {"items", c.items},
      {"candidates", c.candidates},
      {"context", c.context},
      {"length", c.length},
      {"chance", 1.0 / static_cast<double>(c.candidates)},
      {"rule",
       fmt::format("Each of {0} items is {1} tokens of held-out text and {2} continuations of {3} tokens: the true "
                   "one, and {4} drawn from other documents of the same text (from the same document, if no "
                   "other is long enough). The model chooses the likeliest; where m "
                   "are equally likely it gets 1/m. The corrected score takes chance off: (accuracy - 1/{2}) / (1 - "
                   "1/{2}).",
                   c.items, c.context, c.candidates, c.length, c.candidates - 1)}};
}

Json sweeps_json(const std::vector<RateSweep>& sweeps) {
  Json all = Json::array();
  for (const RateSweep& s : sweeps) {
    Json loss = Json::array();
    for (const double x : s.loss) loss.push_back(number_or_null(x));
    all.push_back({{"arm", s.arm},
                   {"size", s.cell.size},
                   {"duration", s.cell.duration},
                   {"budget", s.cell.budget},
                   {"rule", s.again ? "again" : "paper"},
                   {"rates", s.rates},
                   {"loss", loss},
                   {"best", s.best ? Json(*s.best) : Json()},
                   {"interior", s.interior},
                   {"flops", s.flops},
                   {"wall_seconds", s.wall_seconds}});
  }
  return all;
}

}  // namespace

Json make_report(const Study& study, const std::vector<StudyResult>& runs, const std::vector<ServingResult>& served,
                 const TrainingRates& rates) {
  const std::vector<StudyResult> results = in_order(study, runs);
  const std::vector<ServingResult> serving = in_order(study, served);
  const std::vector<RateSweep> sweeps = sweeps_of(study, results);
  Json report = {{"verdict", ""}, {"study", nullptr}, {"cloze", cloze_json(study.cloze)}};
  report["runs"] = runs_json(study, results);
  report["study"] = study_json(study, results, report["runs"], sweeps, serving, rates);
  report["comparisons"] = comparisons(study, results, sweeps);
  report["sweeps"] = sweeps_json(sweeps);
  report["serving"] = serving_costs_json(serving);
  report["break_even"] = break_evens(study, results, sweeps, serving, rates);
  report["break_even_formula"] = kBreakEvenFormula;
  report["paper"] = paper_figures();
  report["verdict"] = verdict(study, report);
  return report;
}

}  // namespace upcycle
