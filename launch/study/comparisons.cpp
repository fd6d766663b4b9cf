#include "launch/study/comparisons.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "core/error.h"
#include "launch/study/bootstrap.h"

namespace upcycle {
namespace {

constexpr double kClearOfZero = 3;  // standard errors of the baseline's cloze score, below which its gain is no ratio
const std::string kAgain = "best per budget";

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

// One quantity of two arms at one cell, paired: the arm's sums less the baseline's, of each seed and document (or cloze
// item), and what the documents weigh.
struct Differences {
  std::vector<std::vector<double>> sums;
  std::vector<double> weights;
  std::vector<double> per_seed() const { return seed_differences(sums, weights); }
};

// Of the reported half; documents of a single token predict nothing.
Differences loss_differences(const Pairs& pairs, const std::string& name) {
  Differences d;
  for (const auto& [baseline, arm] : pairs) {
    const SetMeasures &b = *find_set(*baseline, name), &a = *find_set(*arm, name);
    if (a.documents.size() != b.documents.size()) refuse_other_text(*arm, *baseline, name, "documents");
    std::vector<double> tokens, sums;
    for (std::size_t i = 0; i < b.documents.size(); ++i) {
      if (!in_half(i, b.documents.size(), Half::Reported)) continue;
      if (a.documents[i].tokens != b.documents[i].tokens) refuse_other_text(*arm, *baseline, name, "documents");
      if (b.documents[i].tokens == 0) continue;
      tokens.push_back(static_cast<double>(b.documents[i].tokens));
      sums.push_back(a.documents[i].loss - b.documents[i].loss);
    }
    if (!d.sums.empty() && d.weights != tokens) refuse_other_text(*baseline, *pairs[0].first, name, "documents");
    d.weights = tokens;
    d.sums.push_back(sums);
  }
  return d;
}

// The sum of so many items' corrected scores, of the sum of their credits.
double corrected(double credits, double items, std::int64_t candidates) {
  const double chance = 1.0 / static_cast<double>(candidates);
  return (credits - chance * items) / (1 - chance);
}

// Of corrected scores in the reported half; empty where no cloze was asked for. `of_baseline`: its own scores, not the
// differences.
Differences cloze_differences(const Pairs& pairs, const std::string& name, bool of_baseline) {
  Differences d;
  const SetMeasures& first = *find_set(*pairs[0].first, name);
  d.weights = cloze_sums(first, Half::Reported).items;
  for (const auto& [baseline, arm] : pairs) {
    const SetMeasures &b = *find_set(*baseline, name), &a = *find_set(*arm, name);
    const ClozeSums of_b = cloze_sums(b, Half::Reported), of_a = cloze_sums(a, Half::Reported);
    for (const auto& [set, sums, run] : {std::tuple{&a, &of_a, arm}, {&b, &of_b, baseline}})
      if (sums->items != d.weights || set->candidates != first.candidates)
        refuse_other_text(*run, *pairs[0].first, name, "cloze items");
    std::vector<double> sums;
    for (std::size_t i = 0; i < d.weights.size(); ++i) {
      const double score = corrected(of_b.credits[i], d.weights[i], first.candidates);
      sums.push_back(of_baseline ? score : corrected(of_a.credits[i], d.weights[i], first.candidates) - score);
    }
    d.sums.push_back(sums);
  }
  return d;
}

// What is compared: an arm and the baseline at one cell, on one set.
struct Compared {
  Cell cell;
  std::string arm, set, rates;
  Pairs pairs;
  Differences loss, cloze, baseline_cloze;
};

struct Spreads {
  SeedSpread loss, cloze, baseline_cloze;
};
// Pooled over the durations and budgets of a size. The second sweep's rates are other runs of a cell that counts
// already.
Spreads spreads_of(const std::vector<Compared>& all, const Compared& one) {
  std::vector<std::vector<double>> loss, cloze, baseline;
  for (const Compared& c : all) {
    if (c.cell.size != one.cell.size || c.arm != one.arm || c.set != one.set || c.rates == kAgain) continue;
    loss.push_back(c.loss.per_seed());
    cloze.push_back(c.cloze.per_seed());
    baseline.push_back(c.baseline_cloze.per_seed());
  }
  return {seed_spread(loss), seed_spread(cloze), seed_spread(baseline)};
}

Json cloze_comparison(const Compared& c, const Spreads& spreads) {
  if (c.cloze.weights.empty()) return {};
  const PairedDifference d = paired_difference(c.cloze.sums, c.cloze.weights, spreads.cloze),
                         base = paired_difference(c.baseline_cloze.sums, c.cloze.weights, spreads.baseline_cloze);
  const std::string said = says(d, false);
  const bool clear = base.difference > kClearOfZero * base.standard_error && (said == "better" || said == "worse");
  return {{"difference", number_or_null(d.difference)},
          {"standard_error", number_or_null(d.standard_error)},
          {"low", number_or_null(d.low)},
          {"high", number_or_null(d.high)},
          {"relative_gain", clear ? number_or_null(d.difference / base.difference) : Json()},
          {"says", said}};
}

Json comparison(const Compared& c, const Spreads& spreads) {
  const PairedDifference d = paired_difference(c.loss.sums, c.loss.weights, spreads.loss);
  double baseline = 0;
  for (const auto& [b, a] : c.pairs)
    baseline += mean_loss(*find_set(*b, c.set), Half::Reported) / static_cast<double>(c.pairs.size());
  Json per_seed = Json::array();
  for (const double x : d.per_seed) per_seed.push_back(number_or_null(x));
  return {{"size", c.cell.size},
          {"duration", c.cell.duration},
          {"budget", c.cell.budget},
          {"arm", c.arm},
          {"set", c.set},
          {"rates", c.rates},
          {"baseline_loss", number_or_null(baseline)},
          {"loss", number_or_null(baseline + d.difference)},
          {"difference", number_or_null(d.difference)},
          {"standard_error", number_or_null(d.standard_error)},
          {"low", number_or_null(d.low)},
          {"high", number_or_null(d.high)},
          {"seeds", c.pairs.size()},
          {"spread_known", spreads.loss.degrees > 0},
          {"per_seed", per_seed},
          {"relative_gain", number_or_null(-d.difference / baseline)},
          {"says", says(d, true)},
          {"cloze", cloze_comparison(c, spreads)}};
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
  const ClozeSums sums = cloze_sums(set, Half::Reported);
  if (sums.items.empty()) return {};
  const double n = static_cast<double>(sums.items.size()),
               items = std::accumulate(sums.items.begin(), sums.items.end(), 0.0),
               accuracy = std::accumulate(sums.credits.begin(), sums.credits.end(), 0.0) / items;
  double squares = 0;  // of a ratio of sums over the documents
  for (std::size_t d = 0; d < sums.items.size(); ++d) {
    const double off = sums.credits[d] - accuracy * sums.items[d];
    squares += off * off;
  }
  const double error = std::sqrt(squares * n / (n - 1)) / items / (1 - 1.0 / static_cast<double>(set.candidates));
  return {{"accuracy", accuracy},
          {"corrected", corrected(accuracy, 1, set.candidates)},
          {"standard_error", number_or_null(error)},
          {"items", static_cast<std::int64_t>(items)}};
}

Json comparisons(const Study& study, const std::vector<StudyResult>& results, const std::vector<RateSweep>& sweeps) {
  std::vector<Compared> all;
  const auto is_swept = [&](const std::string& arm, bool again, const Cell& cell) {
    const std::string& of = study.arm(arm).lr_of.empty() ? arm : study.arm(arm).lr_of;
    return std::ranges::any_of(sweeps, [&](const RateSweep& s) {
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
        const bool same = base_rate == rate_of(study, sweeps, study.baseline, cell, false) &&
                          arm_rate == rate_of(study, sweeps, arm.name, cell, false);
        if (again && same && arm.name != study.candidate) continue;  // of the verdict's arms it is worth saying
        const Pairs pairs = paired_by_seed(results_at(results, study.baseline, cell, *base_rate),
                                           results_at(results, arm.name, cell, *arm_rate));
        for (const auto& [set, prefix] : study.valid) {
          Compared c{cell, arm.name, set, again ? kAgain : swept ? "paper" : "given", pairs, {}, {}, {}};
          std::erase_if(c.pairs, [&set = set](const auto& p) {
            return find_set(*p.first, set) == nullptr || find_set(*p.second, set) == nullptr;
          });
          if (c.pairs.empty()) continue;
          c.loss = loss_differences(c.pairs, set);
          c.cloze = cloze_differences(c.pairs, set, false);
          c.baseline_cloze = cloze_differences(c.pairs, set, true);
          all.push_back(std::move(c));
        }
      }
  Json list = Json::array();
  for (const Compared& c : all) list.push_back(comparison(c, spreads_of(all, c)));
  return list;
}

}  // namespace upcycle
