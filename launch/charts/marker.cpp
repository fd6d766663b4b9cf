#include "launch/charts/marker.h"

#include <fmt/core.h>

#include <array>

namespace upcycle::charts {

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
    case 4:  // diamond
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
  static const std::array<const char*, dash_count> dashes = {"", "6 3", "2 3", "9 3 2 3", "12 4"};
  const char* dash = dashes[static_cast<std::size_t>(look.dash % dash_count)];
  return *dash == '\0' ? "" : fmt::format(" stroke-dasharray=\"{}\"", dash);
}

}  // namespace upcycle::charts
