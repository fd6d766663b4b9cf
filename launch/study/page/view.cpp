#include "launch/study/page/view.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

namespace upcycle::study_page {

using charts::Unit;

namespace {
const Json nothing;
}

const Json& part(const Json& j, const char* key) {
  if (!j.is_object()) return nothing;
  const auto found = j.find(key);
  return found == j.end() ? nothing : *found;
}

double number(const Json& j, const char* key) {
  const Json& value = part(j, key);
  return value.is_number() ? value.get<double>() : charts::none;
}

std::string words(const Json& j, const char* key) {
  const Json& value = part(j, key);
  return value.is_string() ? value.get<std::string>() : "";
}

std::vector<double> numbers(const Json& list) {
  std::vector<double> all;
  if (list.is_array())
    for (const Json& v : list) all.push_back(v.is_number() ? v.get<double>() : charts::none);
  return all;
}

std::vector<std::vector<double>> rows(const Json& lists) {
  std::vector<std::vector<double>> all;
  if (lists.is_array())
    for (const Json& list : lists) all.push_back(numbers(list));
  return all;
}

Grid grid_of(const Json& entry) { return {words(entry, "size"), number(entry, "duration")}; }

View::View(const Json& of) : report(of) {
  const Json& study = part(report, "study");
  baseline = words(study, "baseline");
  candidate = words(study, "candidate");
  new_set = words(study, "new_set");
  old_set = words(study, "old_set");
  const Json& in_tokens = part(study, "budgets_in_tokens");
  budgets_in_tokens = in_tokens.is_boolean() && in_tokens.get<bool>();
  arms_ = {baseline, candidate};
  for (const Json& run : part(report, "runs")) {
    const std::string arm = words(run, "arm");
    if (!arm.empty() && std::ranges::find(arms_, arm) == arms_.end()) arms_.push_back(arm);
    const Grid grid = grid_of(run);
    if (std::ranges::find(grids, grid) == grids.end()) grids.push_back(grid);
    const double budget = number(run, "budget");
    if (budget > 0 && std::ranges::find(budgets, budget) == budgets.end()) budgets.push_back(budget);
  }
  std::ranges::sort(budgets);
}

int View::color(const std::string& arm) const {
  const auto found = std::ranges::find(arms_, arm);
  if (arm.empty() || found == arms_.end()) return charts::quiet_color;
  return static_cast<int>((found - arms_.begin()) % charts::quiet_color);
}

int View::shape(const Grid& grid) const { return static_cast<int>(std::ranges::find(grids, grid) - grids.begin()); }

int View::shape(const std::string& arm, int otherwise) const {
  const auto index = std::ranges::find(arms_, arm) - arms_.begin();
  return arm.empty() || index < 2 ? otherwise : 4 + static_cast<int>(index - 2) % (charts::shape_count - 4);
}

int View::step(double budget) const { return static_cast<int>(std::ranges::find(budgets, budget) - budgets.begin()); }

std::string View::name(const Grid& grid) const {
  if (!(grid.duration > 0)) return grid.size;
  return fmt::format("{}, {} tokens per parameter", grid.size, charts::for_people(grid.duration, Unit::Number));
}

std::string View::budget(double budget) const {
  return budgets_in_tokens ? charts::for_people(budget, Unit::Count) + " tokens"
                           : charts::for_people(budget, Unit::Number);
}

bool View::in_verdict_cell(const Json& entry) const {
  const Json& cell = part(part(report, "study"), "verdict_cell");
  return cell.is_object() && grid_of(entry) == grid_of(cell) && number(entry, "budget") == number(cell, "budget");
}

charts::Axis View::budget_axis() const {
  charts::Axis axis{budgets_in_tokens ? "budget, tokens of CPT" : "budget, share of the pretraining's FLOPs",
                    budgets_in_tokens ? Unit::Count : Unit::Number, true};
  if (budgets.size() <= 8) axis.ticks = budgets;
  return axis;
}

std::vector<const Json*> View::results(const std::string& arm) const {
  std::vector<const Json*> all;
  for (const Json& run : part(report, "runs")) {
    const Json& result = part(run, "result");
    if (words(run, "kind") == "arm" && words(run, "status") == "done" && result.is_boolean() && result.get<bool>() &&
        (arm.empty() || words(run, "arm") == arm))
      all.push_back(&run);
  }
  return all;
}

const Json* View::serving_of(const Json& run) const {
  const bool dense = number(run, "parameters") == number(run, "active_parameters");
  const Json* found = nullptr;
  for (const Json& s : part(report, "serving"))
    if (words(s, "size") == words(run, "size")) {
      if (words(s, "arm") == words(run, "arm")) return &s;
      if (dense && words(s, "arm").empty()) found = &s;
    }
  return found;
}

}  // namespace upcycle::study_page
