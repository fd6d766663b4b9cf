#include "launch/study/page/interval.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "launch/charts/marker.h"
#include "launch/study/page/view.h"

namespace upcycle::study_page {
namespace {

constexpr double kWidth = 140, kHeight = 18, kEdge = 6;

}  // namespace

Interval::Interval(const Json& comparisons, const std::string& candidate) {
  for (const Json& c : comparisons)
    for (const char* key : {"low", "high", "difference"})
      if (const double v = number(c, key); std::isfinite(v) && words(c, "arm") == candidate) {
        low_ = std::min(low_, v);
        high_ = std::max(high_, v);
      }
}

std::string Interval::svg(const Json& c, int color, const std::string& of) const {
  const double difference = number(c, "difference"), low = number(c, "low"), high = number(c, "high");
  if (!std::isfinite(difference) || high_ <= low_) return "";
  const auto x = [&](double v) {
    return kEdge + (kWidth - 2 * kEdge) * (std::clamp(v, low_, high_) - low_) / (high_ - low_);
  };
  std::string html = fmt::format(
      "<svg width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" aria-hidden=\"true\"><path class=\"axis\" "
      "d=\"M{2:.1f} 0v{1}\"/>",
      kWidth, kHeight, x(0));
  if (std::isfinite(low) && std::isfinite(high))
    html += fmt::format("<path class=\"line c{0}\" d=\"M{1:.1f} 9H{2:.1f}M{1:.1f} 5v8M{2:.1f} 5v8\"/>", color, x(low),
                        x(high));
  const bool beyond = difference < low_ || difference > high_;
  return html + fmt::format("<path class=\"p c{}\" data-run=\"{}\" data-x=\"{}\" data-y=\"0\" d=\"{}\"/></svg>", color,
                            charts::escaped(of), charts::exact(difference),
                            !beyond              ? charts::marker_path(0, x(difference), kHeight / 2, 4)
                            : difference > high_ ? fmt::format("M{} 4l6 5l-6 5z", kWidth - kEdge)
                                                 : fmt::format("M{} 4l-6 5l6 5z", kEdge));
}

}  // namespace upcycle::study_page
