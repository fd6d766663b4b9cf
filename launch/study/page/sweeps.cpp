#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "launch/study/page/sections.h"

// Learning-rate sweeps.
namespace upcycle::study_page {

using charts::Chart;
using charts::for_people;
using charts::Series;
using charts::Unit;

charts::Section sweeps_section(const View& v) {
  charts::Section s{
      "sweeps", "Learning rates",
      "Loss on the half of the held-out text that is for choosing, against the learning rate. The ring marks the best; "
      "a best rate at the edge of its sweep may not be the best there is.",
      "", "The learning rates were given, not swept."};
  std::vector<Chart> all;
  charts::Table t;
  t.head = {"arm", "cell", "rule", "best rate", "where", "FLOPs of the sweep", "time of the sweep"};
  t.text_columns = 3;
  for (const Json& sweep : part(v.report, "sweeps")) {
    const std::string arm = words(sweep, "arm"),
                      cell = v.name(grid_of(sweep)) + ", budget " + v.budget(number(sweep, "budget"));
    const std::string rule =
        words(sweep, "rule") == "paper" ? "the paper's: at the shortest duration" : "again, at the largest budget";
    const Json& interior = part(sweep, "interior");
    const bool inside = interior.is_boolean() && interior.get<bool>();
    const double best = number(sweep, "best");
    t.rows.push_back({charts::escaped(arm), charts::escaped(cell), charts::escaped(rule),
                      for_people(best, Unit::Number), inside ? "interior" : "<span class=\"bad\">at the edge</span>",
                      for_people(number(sweep, "flops"), Unit::Flops),
                      for_people(number(sweep, "wall_seconds"), Unit::Seconds)});
    const std::string key = "sweep " + cell;
    auto chart = std::ranges::find(all, key, &Chart::key);
    if (chart == all.end()) {
      all.push_back({key, cell, {"learning rate", Unit::Number, true}, {"loss, choosing half, nats"}, {}});
      chart = all.end() - 1;
    }
    const int order = v.color(arm);
    Series line{arm, {order, order, order}, {}};
    const std::vector<double> rates = numbers(part(sweep, "rates")), loss = numbers(part(sweep, "loss"));
    for (std::size_t i = 0; i < rates.size() && i < loss.size(); ++i) {
      if (!std::isfinite(loss[i])) continue;
      charts::Point p{rates[i], loss[i], arm + ", " + cell,
                      fmt::format("{}\nrate {}: loss {:.4f}", arm, for_people(rates[i], Unit::Number), loss[i])};
      p.ringed = rates[i] == best;
      if (p.ringed && !inside) p.label = "at the edge";
      line.points.push_back(p);
    }
    chart->x.ticks.insert(chart->x.ticks.end(), rates.begin(), rates.end());
    chart->series.push_back(line);
  }
  for (Chart& chart : all) {
    std::ranges::sort(chart.x.ticks);
    const auto again = std::ranges::unique(chart.x.ticks);
    chart.x.ticks.erase(again.begin(), again.end());
  }
  s.body = charts::chart_group(all) + charts::table_html(t);
  return s;
}

}  // namespace upcycle::study_page
