#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "launch/charts/heat_map.h"
#include "launch/study/page/by_arm.h"
#include "launch/study/page/curve_charts.h"
#include "launch/study/page/sections.h"

// How tokens spread over the experts.
namespace upcycle::study_page {

using charts::for_people;
using charts::Section;
using charts::Unit;

namespace {

std::vector<std::string> labels(const std::vector<double>& values) {
  std::vector<std::string> all;
  for (const double n : values) all.push_back(fmt::format("{}", n));
  return all;
}

std::vector<std::string> counted(std::size_t n) {
  std::vector<std::string> all;
  for (std::size_t i = 0; i < n; ++i) all.push_back(fmt::format("{}", i));
  return all;
}

std::string load_maps(const Json& run) {
  const Json& experts = part(run, "experts");
  const Json& load = part(experts, "load");
  const std::vector<double> layers = numbers(part(experts, "layers")), tokens = numbers(part(experts, "tokens"));
  if (!load.is_array() || load.empty() || layers.empty() || load.size() != tokens.size()) return "";
  std::vector<std::vector<std::vector<double>>> at;  // [checkpoint][layer][expert]
  for (const Json& checkpoint : load) {
    at.push_back(rows(checkpoint));
    if (at.back().size() != layers.size()) return "";
  }
  const std::size_t count = at.front().front().size();
  const std::string name = words(run, "name");
  // The strongest color is at least twice the even share's: small differences stay pale.
  const double even = 1 / static_cast<double>(count);
  double most = 2 * even;
  for (const auto& checkpoint : at)
    for (const auto& layer : checkpoint)
      for (const double share : layer) most = std::max(most, share);
  std::string html = charts::heat_map_figure({"heat " + name, "Load of each expert at the end, in %", "layer", "expert",
                                              labels(layers), counted(count), at.back(), name, even, most});
  // Layers x experts x checkpoints cells: of a large model only some layers are shown over time.
  std::vector<std::size_t> shown;
  for (std::size_t l = 0; l < layers.size(); ++l)
    if (layers.size() * count * tokens.size() <= 3000 || l == 0 || l == layers.size() / 2 || l + 1 == layers.size())
      shown.push_back(l);
  std::vector<std::string> times;
  for (const double t : tokens) times.push_back(for_people(t, Unit::Count));
  for (const std::size_t l : shown) {
    std::vector<std::vector<double>> over_time(count, std::vector<double>(tokens.size(), charts::none));
    for (std::size_t t = 0; t < at.size(); ++t)
      for (std::size_t e = 0; e < count && e < at[t][l].size(); ++e) over_time[e][t] = at[t][l][e];
    html += charts::heat_map_figure({fmt::format("heat {} layer {}", name, layers[l]),
                                     fmt::format("Layer {} over time, in %", layers[l]), "expert", "tokens trained on",
                                     counted(count), times, over_time, name, even, most, false});
  }
  return "<div class=\"charts\">\n" + html + "</div>\n";
}

std::string loads(const View& v, const Json& run) {
  const Json& load = part(run, "load");
  return load_maps(run) +
         load_charts({words(run, "name"), v.color(words(run, "arm")), numbers(part(load, "tokens")),
                      numbers(part(load, "layers")), rows(part(load, "max_over_mean")), rows(part(load, "entropy"))},
                     "");
}

}  // namespace

Section load_section(const View& v) {
  return {
      "load", "Expert load",
      "How the tokens of held-out text spread over the experts of each layer, in percent: no color is an even share, "
      "orange "
      "busier, blue idler. One run for each arm, that of the verdict's cell where it has one.",
      by_arm(v, loads), "No finished run has experts whose load was measured."};
}

}  // namespace upcycle::study_page
