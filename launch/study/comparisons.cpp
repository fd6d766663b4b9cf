#include "launch/study/comparisons.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "launch/study/bootstrap.h"

namespace upcycle {
namespace {

constexpr double kClearOfZero = 3;  // standard errors of the baseline's cloze score, below which its gain is no ratio

using Pairs = std::vector<std::pair<const StudyResult*, const StudyResult*>>;  // baseline, arm

Pairs paired_by_seed(const std::vector<const StudyResult*>& baseline, const std::vector<const StudyResult*>& arm) {
  Pairs pairs;
  for (const StudyResult* b : baseline)
    for (const StudyResult* a : arm)
      if (a->run.seed == b->run.seed) pairs.emplace_back(b, a);
  return pairs;
}

[[noreturn]] void refuse_other_text(const StudyResult& a, const StudyResult& b, const std::string& set,
                                    const char* what) {
  input_error(
      "{}/measures.json: {}: found other {} than in {}/measures.json, expected the same; remove both files to measure "
      "the runs again",
      a.folder, set, what, b.folder);
}

// Of the reported half: tokens of each document, and of each pair the arm's sums less the baseline's.
struct LossDifferences {
  std::vector<double> tokens;
  std::vector<std::vector<double>> sums;
  double baseline = 0;  // mean loss over the seeds
};
LossDifferences loss_differences(const Pairs& pairs, const std::string& name) {
  LossDifferences d;
  for (const auto& [baseline, arm] : pairs) {
    const SetMeasures &b = *find_set(*baseline, name), &a = *find_set(*arm, name);
    if (a.documents.size() != b.documents.size()) refuse_other_text(*arm, *baseline, name, "documents");
    std::vector<double> tokens, sums;
    for (std::size_t i = 1; i < b.documents.size(); i += 2) {
      if (a.documents[i].tokens != b.documents[i].tokens) refuse_other_text(*arm, *baseline, name, "documents");
      tokens.push_back(static_cast<double>(b.documents[i].tokens));
      sums.push_back(a.documents[i].loss - b.documents[i].loss);
    }
    if (!d.tokens.empty() && d.tokens != tokens) refuse_other_text(*baseline, *pairs[0].first, name, "documents");
    d.tokens = tokens;
    d.sums.push_back(sums);
    d.baseline += mean_loss(b, Half::Reported) / static_cast<double>(pairs.size());
  }
  return d;
}

double corrected(double credit, std::int64_t candidates) {
  const double chance = 1.0 / static_cast<double>(candidates);
  return (credit - chance) / (1 - chance);
}
std::vector<double> corrected(const SetMeasures& set) {
  std::vector<double> scores;
  for (const double credit : set.cloze) scores.push_back(corrected(credit, set.candidates));
  return scores;
}

Json cloze_comparison(const Pairs& pairs, const std::string& name) {
  std::vector<std::vector<double>> scores, differences;
  for (const auto& [baseline, arm] : pairs) {
    const SetMeasures &b = *find_set(*baseline, name), &a = *find_set(*arm, name);
    if (b.cloze.empty() && a.cloze.empty()) return {};
    const SetMeasures& first = *find_set(*pairs[0].first, name);
    for (const auto& [set, run] : {std::pair{&a, arm}, {&b, baseline}})
      if (set->cloze.size() != first.cloze.size() || set->candidates != first.candidates)
        refuse_other_text(*run, *pairs[0].first, name, "cloze items");
    scores.push_back(corrected(b));
    differences.push_back(corrected(a));
    for (std::size_t i = 0; i < scores.back().size(); ++i) differences.back()[i] -= scores.back()[i];
  }
  const std::vector<double> one_each(scores[0].size(), 1.0);
  const PairedDifference d = paired_difference(differences, one_each), base = paired_difference(scores, one_each);
  const bool clear = base.difference > kClearOfZero * base.standard_error;
  return {{"difference", number_or_null(d.difference)},
          {"standard_error", number_or_null(d.standard_error)},
          {"low", number_or_null(d.low)},
          {"high", number_or_null(d.high)},
          {"relative_gain", clear ? number_or_null(d.difference / base.difference) : Json()},
          {"says", says(d, false)}};
}

Json comparison(const Pairs& pairs, const Cell& cell, const std::string& arm, const std::string& set,
                const char* rates) {
  const LossDifferences losses = loss_differences(pairs, set);
  const PairedDifference d = paired_difference(losses.sums, losses.tokens);
  Json per_seed = Json::array();
  for (const double x : d.per_seed) per_seed.push_back(number_or_null(x));
  return {{"size", cell.size},
          {"duration", cell.duration},
          {"budget", cell.budget},
          {"arm", arm},
          {"set", set},
          {"rates", rates},
          {"baseline_loss", number_or_null(losses.baseline)},
          {"loss", number_or_null(losses.baseline + d.difference)},
          {"difference", number_or_null(d.difference)},
          {"standard_error", number_or_null(d.standard_error)},
          {"low", number_or_null(d.low)},
          {"high", number_or_null(d.high)},
          {"seeds", pairs.size()},
          {"per_seed", per_seed},
          {"relative_gain", number_or_null(-d.difference / losses.baseline)},
          {"says", says(d, true)},
          {"cloze", cloze_comparison(pairs, set)}};
}

std::vector<Cell> cells_of(const std::vector<StudyResult>& results) {
  std::vector<Cell> cells;
  for (const StudyResult& r : results)
    if (r.run.kind == "arm" && std::ranges::find(cells, r.run.cell) == cells.end()) cells.push_back(r.run.cell);
  return cells;
}

}  // namespace

std::vector<const StudyResult*> results_at(const std::vector<StudyResult>& results, const std::string& arm,
                                           const Cell& cell, double lr) {
  std::vector<const StudyResult*> found;
  for (const StudyResult& r : results)
    if (r.run.kind == "arm" && r.run.result && r.status == "done" && r.run.arm == arm && r.run.cell == cell &&
        r.run.lr == lr)
      found.push_back(&r);
  return found;
}

Json cloze_score(const SetMeasures& set) {
  if (set.cloze.empty()) return {};
  const double n = static_cast<double>(set.cloze.size());
  const double accuracy = std::accumulate(set.cloze.begin(), set.cloze.end(), 0.0) / n;
  double squares = 0;
  for (const double credit : set.cloze) squares += (credit - accuracy) * (credit - accuracy);
  const double error = std::sqrt(squares / (n - 1) / n) / (1 - 1.0 / static_cast<double>(set.candidates));
  return {{"accuracy", accuracy},
          {"corrected", corrected(accuracy, set.candidates)},
          {"standard_error", number_or_null(error)},
          {"items", set.cloze.size()}};
}

Json comparisons(const Study& study, const std::vector<StudyResult>& results, const std::vector<Sweep>& sweeps) {
  Json all = Json::array();
  const auto is_swept = [&](const std::string& arm, bool again, const Cell& cell) {
    return std::ranges::any_of(sweeps, [&](const Sweep& s) {
      const std::string& of = study.arm(arm).lr_of.empty() ? arm : study.arm(arm).lr_of;
      return s.arm == of && s.again == again && (again ? s.cell == cell : s.cell.size == cell.size);
    });
  };
  for (const Cell& cell : cells_of(results))
    for (const StudyArm& arm : study.arms)
      for (const bool again : {false, true}) {
        if (arm.name == study.baseline) continue;
        const bool swept = is_swept(arm.name, again, cell) || is_swept(study.baseline, again, cell);
        if (again && !swept) continue;
        const auto base_rate = rate_of(study, sweeps, study.baseline, cell, again),
                   arm_rate = rate_of(study, sweeps, arm.name, cell, again);
        if (!base_rate || !arm_rate) continue;
        Pairs pairs = paired_by_seed(results_at(results, study.baseline, cell, *base_rate),
                                     results_at(results, arm.name, cell, *arm_rate));
        for (const auto& [set, prefix] : study.valid) {
          Pairs measured = pairs;
          std::erase_if(measured, [&set = set](const auto& p) {
            return find_set(*p.first, set) == nullptr || find_set(*p.second, set) == nullptr;
          });
          if (!measured.empty())
            all.push_back(comparison(measured, cell, arm.name, set,
                                     again   ? "best per budget"
                                     : swept ? "paper"
                                             : "given"));
        }
      }
  return all;
}

}  // namespace upcycle
