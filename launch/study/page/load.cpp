#include "launch/study/page/by_arm.h"
#include "launch/study/page/curve_charts.h"
#include "launch/study/page/load_maps.h"
#include "launch/study/page/sections.h"

// How tokens spread over the experts.
namespace upcycle::study_page {

using charts::Section;

namespace {

std::string maps_of(const Json& run) {
  const Json& experts = part(run, "experts");
  const Json& load = part(experts, "load");
  const std::vector<double> layers = numbers(part(experts, "layers")), tokens = numbers(part(experts, "tokens"));
  if (!load.is_array() || load.empty() || layers.empty() || load.size() != tokens.size()) return "";
  std::vector<std::vector<std::vector<double>>> at;  // [checkpoint][layer][expert]
  for (const Json& checkpoint : load) {
    at.push_back(rows(checkpoint));
    if (at.back().size() != layers.size()) return "";
  }
  return load_maps(words(run, "name"), tokens, layers, at);
}

std::string loads(const View& v, const Json& run) {
  const Json& load = part(run, "load");
  return maps_of(run) +
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
