#include "launch/study/page/load_maps.h"

#include <fmt/core.h>

#include <algorithm>

#include "launch/charts/chart.h"
#include "launch/charts/heat_map.h"
#include "launch/charts/text.h"

namespace upcycle::study_page {
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

}  // namespace

charts::HeatMap load_at_the_end(const std::string& run, const std::vector<double>& layers, const Shares& shares) {
  const std::size_t count = shares.front().front().size();
  // The strongest color is at least twice the even share's: small differences stay pale.
  const double even = 1 / static_cast<double>(count);
  double most = 2 * even;
  for (const auto& time : shares)
    for (const auto& layer : time)
      for (const double share : layer) most = std::max(most, share);
  return {"heat " + run,  "Load of each expert at the end, in %",
          "layer",        "expert",
          labels(layers), counted(count),
          shares.back(),  run,
          even,           most};
}

std::string load_maps(const std::string& run, const std::vector<double>& tokens, const std::vector<double>& layers,
                      const Shares& shares) {
  const charts::HeatMap last = load_at_the_end(run, layers, shares);
  const std::size_t count = last.columns.size();
  std::string html = charts::heat_map_figure(last);
  // Layers x experts x times cells: of a large model only some layers are shown over time.
  std::vector<std::size_t> shown;
  for (std::size_t l = 0; l < layers.size(); ++l)
    if (layers.size() * count * tokens.size() <= 3000 || l == 0 || l == layers.size() / 2 || l + 1 == layers.size())
      shown.push_back(l);
  std::vector<std::string> times;
  for (const double t : tokens) times.push_back(charts::for_people(t, charts::Unit::Count));
  for (const std::size_t l : shown) {
    std::vector<std::vector<double>> over_time(count, std::vector<double>(tokens.size(), charts::none));
    for (std::size_t t = 0; t < shares.size(); ++t)
      for (std::size_t e = 0; e < count && e < shares[t][l].size(); ++e) over_time[e][t] = shares[t][l][e];
    html += charts::heat_map_figure({fmt::format("heat {} layer {}", run, layers[l]),
                                     fmt::format("Layer {} over time, in %", layers[l]), "expert", "tokens trained on",
                                     counted(count), times, over_time, run, last.even, last.most, false});
  }
  return "<div class=\"charts\">\n" + html + "</div>\n";
}

}  // namespace upcycle::study_page
