#include "launch/study/page/by_arm.h"
#include "launch/study/page/curve_charts.h"
#include "launch/study/page/sections.h"

// How far the experts have moved from their start and from each other.
namespace upcycle::study_page {

using charts::Section;
using charts::Unit;

namespace {

std::string similarities(const View& v, const Json& run) {
  const Json& experts = part(run, "experts");
  const std::string name = words(run, "name");
  const auto chart = [&](const char* key, const char* title, const char* y, Unit unit = Unit::Number) {
    return layer_chart(std::string(key) + " " + name, title, y, name, v.color(words(run, "arm")),
                       numbers(part(experts, "tokens")), numbers(part(experts, "layers")), rows(part(experts, key)),
                       unit);
  };
  return charts::chart_group(
      {chart("weight_cosine", "Experts' weights against their start", "cosine, mean over experts"),
       chart("pair_cosine", "Experts' weights against each other", "cosine, mean over pairs"),
       chart("output_cosine", "Experts' outputs on the same tokens", "cosine, mean over pairs"),
       chart("routing_changed", "Choices changed since the last checkpoint", "share of the choices", Unit::Share)});
}

}  // namespace

Section similarity_section(const View& v) {
  return {"similarity", "Similarity of the experts over time",
          "Copied experts start alike: 1 means the same direction. Falling cosines show that experts specialise; the "
          "share of changed "
          "choices shows whether the router has settled.",
          by_arm(v, similarities), "No finished run has experts that were compared."};
}

}  // namespace upcycle::study_page
