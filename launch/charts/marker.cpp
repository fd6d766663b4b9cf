#include "launch/charts/marker.h"

#include <fmt/core.h>

#include <array>
#include <cmath>

namespace upcycle::charts {

namespace {

std::string star_path(double x, double y, double r) {
  std::string d;
  for (int i = 0; i < 10; ++i) {
    const double angle = M_PI * (i / 5.0 - 0.5), radius = i % 2 == 0 ? r : 0.45 * r;
    d += fmt::format("{}{:.1f} {:.1f}", i == 0 ? "M" : "L", x + radius * std::cos(angle), y + radius * std::sin(angle));
  }
  return d + "z";
}

}  // namespace

std::string marker_path(int shape, double x, double y, double r) {
  switch (shape % shape_count) {
    case 0:  // circle
      return fmt::format("M{:.1f} {:.1f}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z", x - r, y, fmt::arg("r", r),
                         fmt::arg("d", 2 * r));
    case 1:  // square
      return fmt::format("M{:.1f} {:.1f}h{w:.1f}v{w:.1f}h-{w:.1f}z", x - 0.9 * r, y - 0.9 * r, fmt::arg("w", 1.8 * r));
    case 2:  // triangle
      return fmt::format("M{:.1f} {:.1f}l{a:.1f} {b:.1f}h-{w:.1f}z", x, y - 1.2 * r, fmt::arg("a", 1.15 * r),
                         fmt::arg("b", 2 * r), fmt::arg("w", 2.3 * r));
    case 3:  // triangle that points down
      return fmt::format("M{:.1f} {:.1f}l{a:.1f} -{b:.1f}h-{w:.1f}z", x, y + 1.2 * r, fmt::arg("a", 1.15 * r),
                         fmt::arg("b", 2 * r), fmt::arg("w", 2.3 * r));
    case 4:  // bow tie
      return fmt::format("M{:.1f} {:.1f}l{w:.1f} {h:.1f}v-{h:.1f}l-{w:.1f} {h:.1f}z", x - 1.2 * r, y - r,
                         fmt::arg("w", 2.4 * r), fmt::arg("h", 2 * r));
    case 5:  // star
      return star_path(x, y, 1.5 * r);
    case 6:  // diamond
      return fmt::format("M{:.1f} {:.1f}l{a:.1f} {a:.1f}l-{a:.1f} {a:.1f}l-{a:.1f} -{a:.1f}z", x, y - 1.3 * r,
                         fmt::arg("a", 1.3 * r));
    default:  // cross
      return fmt::format(
          "M{:.1f} "
          "{:.1f}h{a:.1f}v{b:.1f}h{b:.1f}v{a:.1f}h-{b:.1f}v{b:.1f}h-{a:.1f}v-{b:.1f}h-{b:.1f}v-{a:.1f}h{b:.1f}z",
          x - 0.4 * r, y - 1.2 * r, fmt::arg("a", 0.8 * r), fmt::arg("b", 0.8 * r));
  }
}

std::string color_class(const Look& look) { return fmt::format("c{}", look.color % color_count); }

std::string dash_attribute(const Look& look) {
  static const std::array<const char*, dash_count> dashes = {"", "6 3", "2 3", "9 3 2 3", "12 4", "12 3 2 3 2 3"};
  const char* dash = dashes[static_cast<std::size_t>(look.dash % dash_count)];
  return *dash == '\0' ? "" : fmt::format(" stroke-dasharray=\"{}\"", dash);
}

}  // namespace upcycle::charts
