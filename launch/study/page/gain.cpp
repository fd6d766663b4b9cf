#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "launch/study/page/comparisons_table.h"
#include "launch/study/page/sections.h"

// Gain of upcycling over continued pretraining against the budget.
namespace upcycle::study_page {

using charts::Axis;
using charts::Chart;
using charts::for_people;
using charts::Point;
using charts::Section;
using charts::Series;
using charts::Unit;
using charts::with_sign;

namespace {

constexpr int paper_shape = 6;  // and the one after it: hollow diamond and cross, which are the paper's alone

std::string place(const View& v, const Json& c) {
  return fmt::format("{} against {}\n{}, budget {}", words(c, "arm"), v.baseline, v.name(grid_of(c)),
                     v.budget(number(c, "budget")));
}

Point loss_point(const View& v, const Json& c) {
  const double base = number(c, "baseline_loss"), gain = number(c, "relative_gain");
  const std::string tip =
      fmt::format("{}\nloss {} against {}: {} ({})\n95 % interval {} to {} nats, {} seeds", place(v, c),
                  charts::decimals(number(c, "loss"), 4), charts::decimals(base, 4), with_sign(gain, Unit::Share),
                  words(c, "says"), charts::decimals(number(c, "low"), 4, true),
                  charts::decimals(number(c, "high"), 4, true), for_people(number(c, "seeds"), Unit::Number));
  return {number(c, "budget"), gain, comparison_key(c), tip, -number(c, "high") / base, -number(c, "low") / base};
}

// The gain is a share of the baseline's corrected score, and so is its standard error.
Point cloze_point(const View& v, const Json& c) {
  const Json& cloze = part(c, "cloze");
  const double gain = number(cloze, "relative_gain"), difference = number(cloze, "difference"),
               error = number(cloze, "standard_error");
  Point p{number(c, "budget"), gain, comparison_key(c),
          fmt::format("{}\ncorrected cloze score {} ± {} (standard error): {} ({})", place(v, c),
                      charts::decimals(difference, 4, true), charts::decimals(error, 4), with_sign(gain, Unit::Share),
                      words(cloze, "says"))};
  if (gain != 0 && std::isfinite(error)) {
    const double share = std::abs(gain / difference * 1.96 * error);
    p.low = gain - share;
    p.high = gain + share;
  }
  return p;
}

// Bars at the same budget lie beside each other.
double shift(const View& v, int index) {
  const double count = static_cast<double>(v.grids.size());
  return std::min(7.0, 20 / count) * (index - (count - 1) / 2);
}

// The candidate's lines, one for each size, duration and rule of the rates; `make` gives the point of a comparison.
template <class Make>
std::vector<Series> lines(const View& v, const std::string& set, const Make& make) {
  std::vector<Series> all;
  for (const Grid& grid : v.grids)
    for (const char* rates : {"paper", "best per budget", "given"}) {
      const int shape = v.shape(grid);
      const bool again = rates == std::string("best per budget");
      Series s{v.name(grid) + (again ? ", best rate of each budget" : ""),
               {v.color(v.candidate), shape % paper_shape, shape + (again ? 1 : 0)},
               {}};
      s.shift = shift(v, shape);
      for (const Json& c : part(v.report, "comparisons"))
        if (words(c, "arm") == v.candidate && words(c, "set") == set && grid_of(c) == grid &&
            words(c, "rates") == rates)
          if (const Point p = make(v, c); std::isfinite(p.y)) s.points.push_back(p);
      std::ranges::sort(s.points, {}, &Point::x);
      if (!s.points.empty()) all.push_back(s);
    }
  return all;
}

// What each seed says by itself, as small points on the lines of `series`.
std::vector<Series> seeds(const View& v, const std::string& set) {
  std::vector<Series> all;
  for (const Grid& grid : v.grids) {
    const int shape = v.shape(grid);
    Series s{"", {v.color(v.candidate), shape % paper_shape, 0, true}, {}, false};
    s.thin = true;
    s.shift = shift(v, shape);
    for (const Json& c : part(v.report, "comparisons"))
      if (words(c, "arm") == v.candidate && words(c, "set") == set && grid_of(c) == grid)
        if (const std::vector<double> each = numbers(part(c, "per_seed")); each.size() > 1)
          for (const double d : each) {
            const double gain = -d / number(c, "baseline_loss");
            s.points.push_back({number(c, "budget"), gain, comparison_key(c) + " seed",
                                place(v, c) + "\none seed by itself: " + with_sign(gain, Unit::Share)});
          }
    all.push_back(s);
  }
  return all;
}

std::vector<Series> paper_lines(const View& v, const char* list, double (*gain)(const Json&)) {
  std::vector<Series> all;
  int dash = 1;
  const Json& paper = part(v.report, "paper");
  for (const Json& entry : part(paper, list)) {
    const std::string name = "the paper's " + v.name(grid_of(entry));
    auto found = std::ranges::find(all, name, &Series::name);
    if (found == all.end()) {
      all.push_back(
          {name,
           {charts::quiet_color, paper_shape + static_cast<int>(words(entry, "size") != "436M"), dash++, true},
           {}});
      found = all.end() - 1;
    }
    const double y = gain(entry);
    found->points.push_back(
        {number(entry, "budget"), y, "paper " + words(entry, "size"),
         fmt::format("{}, budget {}\n{}\n{}", name, for_people(number(entry, "budget"), Unit::Number),
                     with_sign(y, Unit::Share), words(paper, "source"))});
  }
  return all;
}

double paper_loss_gain(const Json& e) { return (number(e, "cpt") - number(e, "upcycled")) / number(e, "cpt"); }
double paper_accuracy_gain(const Json& e) { return number(e, "accuracy_gain_percent") / 100; }

Axis paper_axis() { return {"budget, share of the pretraining's FLOPs", Unit::Number, true, {0.1, 0.2, 0.4, 0.8, 1}}; }

Chart gain_chart(const std::string& key, const std::string& title, const Axis& x, const char* y,
                 std::vector<Series> series) {
  return {key, title, x, {y, Unit::Share}, std::move(series), {0}};
}

}  // namespace

std::vector<Chart> gain_charts(const View& v) {
  std::vector<Chart> all;
  const auto ours = [&](const std::string& set) {
    std::vector<Series> series = seeds(v, set);  // below the lines
    for (const Series& one : lines(v, set, loss_point)) series.push_back(one);
    return series;
  };
  const char* const gain = "held-out loss lower by";
  all.push_back(gain_chart("gain loss " + v.new_set, "Loss gain on " + v.new_set + " text, the continuation's",
                           v.budget_axis(), gain, ours(v.new_set)));
  std::vector<Series> paper = paper_lines(v, "loss", paper_loss_gain);
  if (!v.budgets_in_tokens) {
    std::vector<Series> both = lines(v, v.new_set, loss_point);
    for (const Series& one : paper) both.push_back(one);
    Axis x = paper_axis();
    for (const double t : v.budgets)
      if (std::ranges::find(x.ticks, t) == x.ticks.end()) x.ticks.push_back(t);
    std::ranges::sort(x.ticks);
    if (!paper.empty())
      all.push_back(gain_chart("gain loss beside paper", "The same beside the paper's loss gain", x, gain, both));
  } else {
    all.push_back(gain_chart("gain loss paper", "The paper's loss gain", paper_axis(), gain, paper));
  }
  if (!v.old_set.empty())
    all.push_back(gain_chart("gain loss " + v.old_set, "Loss gain on " + v.old_set + " text, the pretraining's",
                             v.budget_axis(), gain, ours(v.old_set)));
  for (const std::string& set : {v.new_set, v.old_set})
    if (!set.empty())
      all.push_back(gain_chart("gain cloze " + set, "Gain in the corrected cloze score, " + set + " text",
                               v.budget_axis(), "cloze score higher by", lines(v, set, cloze_point)));
  all.push_back(gain_chart("gain paper accuracy", "The paper's gain in downstream accuracy", paper_axis(),
                           "accuracy over 35 tasks higher by", paper_lines(v, "gain", paper_accuracy_gain)));
  return all;
}

Section gain_section(const View& v) {
  Section s{
      "gain", "Gain of " + v.candidate + " over " + v.baseline + " against the budget",
      "Above 0 " + v.candidate +
          " is better. Filled points are this study's, with the 95 % interval (bootstrap over "
          "documents and seeds); small hollow ones are single seeds. Gray hollow ones are the paper's: a loss gain is "
          "compared with its loss gain; its accuracy is a mean of 35 downstream tasks and stands in a plot of its own. "
          "A "
          "gain in cloze score is given only where the score of " +
          v.baseline +
          " is clearly above chance and the two differ by more than two standard errors; its bars are 1.96 "
          "standard errors.",
      "", "No pair of runs of both arms is finished yet."};
  if (part(v.report, "comparisons").empty()) return s;
  s.body = charts::chart_group(gain_charts(v)) + comparisons_table(v);
  return s;
}

}  // namespace upcycle::study_page
