#include "launch/study/sweeps.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

namespace upcycle {
namespace {

// What a run and the trunks that it goes on from cost, without those in `counted`.
void add_cost(RateSweep& sweep, const std::vector<StudyResult>& results, const StudyResult& r,
              std::set<std::string>& counted) {
  if (r.status != "done" || !counted.insert(r.run.name).second) return;
  sweep.flops += r.run.own_flops;
  sweep.wall_seconds += own_seconds(results, r);
  if (const StudyResult* trunk = start_of(results, r)) add_cost(sweep, results, *trunk, counted);
}

RateSweep sweep_at(const Study& study, const std::vector<StudyResult>& results, const StudyArm& arm, const Cell& cell,
                   std::set<std::string>& counted) {
  RateSweep sweep;
  sweep.arm = arm.name;
  sweep.cell = cell;
  std::map<double, std::vector<double>> losses;  // by rate
  for (const StudyResult& r : results) {
    if (!r.run.sweep || r.run.arm != arm.name || !(r.run.cell == cell)) continue;
    const SetMeasures* set = r.status == "done" ? find_set(r, study.new_set) : nullptr;
    losses[r.run.lr].push_back(set == nullptr ? std::nan("") : mean_loss(*set, Half::Choosing));
    add_cost(sweep, results, r, counted);
  }
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [rate, of_rate] : losses) {
    double sum = 0;
    for (const double loss : of_rate) sum += loss;
    sweep.rates.push_back(rate);
    sweep.loss.push_back(sum / static_cast<double>(of_rate.size()));
    if (sweep.loss.back() < least) {
      least = sweep.loss.back();
      sweep.best = rate;
    }
  }
  sweep.interior = sweep.best && *sweep.best > sweep.rates.front() && *sweep.best < sweep.rates.back();
  return sweep;
}

}  // namespace

const SetMeasures* find_set(const StudyResult& result, const std::string& name) {
  const auto it = std::ranges::find(result.measures.sets, name, &SetMeasures::name);
  return it == result.measures.sets.end() ? nullptr : &*it;
}

const StudyResult* start_of(const std::vector<StudyResult>& results, const StudyResult& result) {
  const auto it =
      std::ranges::find_if(results, [&](const StudyResult& r) { return r.run.name == result.run.continues; });
  return it == results.end() ? nullptr : &*it;
}

double own_seconds(const std::vector<StudyResult>& results, const StudyResult& result) {
  const StudyResult* trunk = start_of(results, result);
  return result.measures.wall_seconds - (trunk == nullptr ? 0 : trunk->measures.wall_seconds);
}

std::vector<RateSweep> sweeps_of(const Study& study, const std::vector<StudyResult>& results) {
  std::vector<RateSweep> sweeps;
  std::set<std::string> counted;
  for (const StudySize& size : study.sizes)
    for (const bool again : {false, true}) {
      if (again && size.name != study.verdict.size) continue;
      const Cell cell = again ? second_sweep_cell(study) : sweep_cell(study, size.name);
      if (again && cell == sweep_cell(study, size.name)) continue;
      for (const StudyArm& arm : study.arms) {
        RateSweep sweep = sweep_at(study, results, arm, cell, counted);
        sweep.again = again;
        if (sweep.rates.size() > 1) sweeps.push_back(std::move(sweep));
      }
    }
  return sweeps;
}

std::optional<double> rate_of(const Study& study, const std::vector<RateSweep>& sweeps, const std::string& name,
                              const Cell& cell, bool again) {
  const StudyArm& arm = study.arm(name);
  if (!arm.lr_of.empty()) return rate_of(study, sweeps, arm.lr_of, cell, again);
  if (!arm.swept(cell.size)) return arm.rates(cell.size)[0];
  std::optional<double> rate;
  for (const RateSweep& s : sweeps) {
    if (s.arm != name || s.cell.size != cell.size) continue;
    if (!s.again) rate = s.best;
    if (s.again && again && s.cell == cell) return s.best;
  }
  return rate;
}

}  // namespace upcycle
