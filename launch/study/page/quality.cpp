#include <algorithm>
#include <cmath>

#include "launch/study/page/run_text.h"
#include "launch/study/page/sections.h"

// Quality against what serving costs.
namespace upcycle::study_page {

using charts::Chart;
using charts::for_people;
using charts::Section;
using charts::Series;
using charts::Unit;

namespace {

Chart quality_chart(const View& v, const std::string& set) {
  Chart chart{"quality " + set,
              "Loss on " + set + " text against the cost of serving",
              {"device time per served token", Unit::Seconds, true},
              {"nats per token"},
              {}};
  for (const std::string& arm : v.arms())
    for (const Grid& grid : v.grids) {
      Series s{arm + ", " + v.name(grid), {v.color(arm), v.shape(arm, v.shape(grid))}, {}, false};
      for (const Json* run : v.results(arm)) {
        const Json* serving = v.serving_of(*run);
        if (grid_of(*run) != grid || serving == nullptr) continue;
        const double x = number(*serving, "device_seconds_per_token"), y = number(part(*run, "loss"), set.c_str());
        if (x > 0 && std::isfinite(y))
          s.points.push_back({x, y, words(*run, "name"),
                              run_text(v, *run) + "\n" + for_people(x, Unit::Seconds) + " of device time per token"});
      }
      if (!s.points.empty()) chart.series.push_back(s);
    }
  return chart;
}

}  // namespace

Section quality_section(const View& v) {
  Section s{"quality", "Quality against the cost of serving",
            "Each point is a finished run; points above each other are the same model after more training. Further "
            "left is cheaper "
            "to serve, lower is better.",
            "", "Serving was neither measured nor predicted in this study."};
  std::vector<Chart> all;
  for (const std::string& set : {v.new_set, v.old_set})
    if (!set.empty()) all.push_back(quality_chart(v, set));
  s.body = charts::chart_group(all);
  return s;
}

}  // namespace upcycle::study_page
