#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "launch/study/page/run_text.h"
#include "launch/study/page/sections.h"

// Held-out loss of the finished runs against what they cost.
namespace upcycle::study_page {

using charts::Axis;
using charts::Chart;
using charts::Section;
using charts::Series;
using charts::Unit;

namespace {

// Each run a point; the line leads through the means over the seeds, at one learning rate.
std::vector<Series> lines(const View& v, const std::string& size, const std::string& set, const char* cost) {
  std::vector<Series> all;
  for (const std::string& arm : v.arms())
    for (const Grid& grid : v.grids) {
      if (grid.size != size) continue;
      const charts::Look look{v.color(arm), v.shape(arm, v.shape(grid)), v.shape(grid)};
      const std::string name = arm + (grid.duration > 0 ? fmt::format(", {} tokens per parameter",
                                                                      charts::for_people(grid.duration, Unit::Number))
                                                        : "");
      Series series{name, look, {}};
      series.aside = arm != v.baseline && arm != v.candidate;
      std::map<double, std::map<double, std::vector<charts::Point>>> by_rate;  // rate, budget
      for (const Json* run : v.results(arm)) {
        const double x = number(*run, cost), y = number(part(*run, "loss"), set.c_str());
        if (grid_of(*run) != grid || !(x > 0) || !std::isfinite(y)) continue;
        series.points.push_back({x, y, words(*run, "name"), run_text(v, *run)});
        by_rate[number(*run, "learning_rate")][number(*run, "budget")].push_back(series.points.back());
      }
      if (series.points.empty()) continue;
      const auto usual = std::ranges::max_element(by_rate, {}, [](const auto& rate) { return rate.second.size(); });
      for (const auto& [budget, points] : usual->second) {
        charts::Point mean;
        for (const charts::Point& p : points) {
          mean.x += p.x / static_cast<double>(points.size());
          mean.y += p.y / static_cast<double>(points.size());
        }
        series.through.push_back(mean);
      }
      all.push_back(series);
    }
  return all;
}

}  // namespace

Section loss_section(const View& v) {
  Section s{"loss", "Loss against tokens, FLOPs and time",
            "Held-out loss at the end of each run against what the run cost, without the pretraining that came before "
            "it. Each "
            "point is one run; lines lead through the means over seeds, at the learning rate that most budgets have. "
            "Lower is "
            "better; of two points with the same loss the one further left was cheaper. An arrow at the upper edge is "
            "a run above "
            "it, with its loss beside it.",
            "", "No run of the results is finished yet."};
  std::vector<std::string> sizes;
  for (const Grid& g : v.grids)
    if (std::ranges::find(sizes, g.size) == sizes.end()) sizes.push_back(g.size);
  for (const std::string& size : sizes)
    for (const std::string& set : {v.new_set, v.old_set}) {
      if (set.empty()) continue;
      const Axis y{"loss on " + set + " text, nats per token"};
      std::vector<Chart> all;
      all.push_back({"loss tokens " + set,
                     "Against tokens trained on",
                     {"tokens trained on", Unit::Count, true},
                     y,
                     lines(v, size, set, "tokens")});
      all.push_back({"loss flops " + set,
                     "Against training FLOPs",
                     {"training FLOPs", Unit::Flops, true},
                     y,
                     lines(v, size, set, "flops")});
      all.push_back({"loss time " + set,
                     "Against wall time",
                     {"wall time", Unit::Seconds, true},
                     y,
                     lines(v, size, set, "wall_seconds")});
      s.body += charts::chart_group(all, fmt::format("{}, {} text ({})", size, set,
                                                     set == v.new_set ? "the continuation's" : "the pretraining's"));
    }
  return s;
}

}  // namespace upcycle::study_page
