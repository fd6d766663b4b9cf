#include "launch/study/page/curve_charts.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

namespace upcycle::study_page {

using charts::Axis;
using charts::Chart;
using charts::for_people;
using charts::Series;
using charts::Unit;

namespace {

enum class Against { Tokens, Flops, Time };

const std::vector<double>& costs(const Curve& c, Against what) {
  return what == Against::Tokens ? c.tokens : what == Against::Flops ? c.flops : c.seconds;
}

Axis axis(Against what) {
  switch (what) {
    case Against::Tokens:
      return {"tokens trained on", Unit::Count, false, {}, {0}};
    case Against::Flops:
      return {"training FLOPs", Unit::Flops, false, {}, {0}};
    default:
      return {"time in steps", Unit::Seconds, false, {}, {0}};
  }
}

// Of a curve of many steps the line shows all, and every so many of them is a point to read off.
Series series_of(const TrainedRun& run, const Curve& curve, Against what, const std::string& of, bool thin) {
  constexpr std::size_t most_points = 12;
  Series s{run.legend, run.look, {}};
  s.thin = thin;
  s.aside = run.aside;
  const std::vector<double>& x = costs(curve, what);
  const std::size_t n = std::min(x.size(), curve.loss.size()), every = thin ? (n + most_points - 1) / most_points : 1;
  for (std::size_t i = 0; i < n; ++i) {
    const charts::Point p{x[i], curve.loss[i], run.name,
                          fmt::format("{}\n{} {:.4f}\nafter {} tokens", run.name, of, curve.loss[i],
                                      for_people(curve.tokens[i], Unit::Count))};
    if ((n - 1 - i) % every == 0) s.points.push_back(p);
    if (every > 1) s.through.push_back(p);
  }
  return s;
}

}  // namespace

std::vector<Chart> curves_of(const std::vector<TrainedRun>& runs, const std::vector<std::string>& sets) {
  std::vector<Chart> all;
  const auto add = [&](const std::string& key, const std::string& what, const std::string& set, Against against) {
    const char* names[] = {"tokens", "FLOPs", "time"};
    const char* name = names[static_cast<int>(against)];
    Chart chart{"curve " + key + " " + name, what + " against " + name, axis(against), {"nats per token"}, {}};
    chart.crop = true;
    for (const TrainedRun& run : runs) {
      const auto found = run.held_out.find(set);
      if (set.empty())
        chart.series.push_back(series_of(run, run.training, against, "training loss", true));
      else if (found != run.held_out.end())
        chart.series.push_back(series_of(run, found->second, against, "loss on " + set, false));
    }
    if (charts::has_points(chart)) all.push_back(chart);
  };
  for (const std::string& set : sets)
    if (!set.empty())
      for (const Against against : {Against::Tokens, Against::Flops, Against::Time})
        add(set, "Held-out loss, " + set + " text,", set, against);
  for (const Against against : {Against::Tokens, Against::Flops, Against::Time})
    add("training", "Training loss", "", against);
  return all;
}

std::string curve_charts(const std::vector<TrainedRun>& runs, const std::vector<std::string>& sets,
                         const std::string& caption) {
  return charts::chart_group(curves_of(runs, sets), caption);
}

Chart layer_chart(const std::string& key, const std::string& title, const std::string& y, const std::string& run,
                  int color, const std::vector<double>& tokens, const std::vector<double>& layers,
                  const std::vector<std::vector<double>>& values, Unit unit) {
  Chart chart{key, title, {"tokens trained on", Unit::Count, false, {}, {0}}, {y, unit}, {}};
  const std::size_t every = (layers.size() + 7) / 8;  // of many layers eight stand out
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const double share = layers.size() > 1 ? static_cast<double>(l) / static_cast<double>(layers.size() - 1) : 1;
    const bool named = (layers.size() - 1 - l) % every == 0;
    const int order = static_cast<int>(l / every);
    Series s{named ? fmt::format("layer {}", layers[l]) : "", {color, order, order, false, 0.45 + 0.55 * share}, {}};
    s.thin = !named;
    for (std::size_t t = 0; t < tokens.size() && t < values.size(); ++t)
      if (l < values[t].size() && std::isfinite(values[t][l]))
        s.points.push_back({tokens[t], values[t][l], fmt::format("{} layer {}", run, layers[l]),
                            fmt::format("layer {}\n{} {}\nafter {} tokens", layers[l], y,
                                        for_people(values[t][l], unit), for_people(tokens[t], Unit::Count))});
    chart.series.push_back(s);
  }
  return chart;
}

std::string load_charts(const LoadHistory& load, const std::string& caption) {
  return charts::chart_group(
      {layer_chart("load " + load.run, "Load of the busiest expert in training", "times the mean load", load.run,
                   load.color, load.tokens, load.layers, load.max_over_mean),
       layer_chart("entropy " + load.run, "Entropy of the router in training", "nats", load.run, load.color,
                   load.tokens, load.layers, load.entropy)},
      caption);
}

}  // namespace upcycle::study_page
