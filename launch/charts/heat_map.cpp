#include "launch/charts/heat_map.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "launch/charts/text.h"

namespace upcycle::charts {
namespace {

constexpr double kWidth = 400, kLeft = 52, kRight = 12, kTop = 24, kScale = 34;

std::string text(double x, double y, const char* anchor, const std::string& words, const char* kind = "") {
  return fmt::format("<text{} x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>",
                     *kind == '\0' ? "" : fmt::format(" class=\"{}\"", kind), x, y, anchor, escaped(words));
}

// Numbers stand on the cells, so that the strongest color is still a light one.
std::string fill_of(double value, const HeatMap& m) {
  const double share = value > m.even ? (value - m.even) / (m.most - m.even) : (m.even - value) / m.even;
  return fmt::format("style=\"fill:var(--{});fill-opacity:{:.2f}\"", value > m.even ? "c1" : "c0",
                     0.04 + 0.66 * std::clamp(share, 0.0, 1.0));
}

std::string scale_of(const HeatMap& m, double y) {
  constexpr int half = 10;  // fields on each side of the even one
  constexpr double width = 9, whole = (2 * half + 1) * width;
  std::string svg;
  for (int i = -half; i <= half; ++i)
    svg += fmt::format("<rect {} x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"9\"/>",
                       fill_of(i < 0 ? m.even + m.even * i / half : m.even + (m.most - m.even) * i / half, m),
                       kLeft + width * (i + half), y, width + 0.2);
  svg += text(kLeft, y + 22, "start", "0");
  svg += text(kLeft + whole / 2, y + 22, "middle", for_people(m.even, Unit::Share) + " = even");
  return svg + text(kLeft + whole, y + 22, "end", for_people(m.most, Unit::Share));
}

}  // namespace

Panel heat_map_panel(const HeatMap& m) {
  const double columns = static_cast<double>(m.values.front().size()), rows = static_cast<double>(m.values.size());
  const double width = (kWidth - kLeft - kRight) / columns, height = std::clamp(180 / rows, 8.0, 26.0);
  const double bottom = kTop + height * rows, total = bottom + (m.scale ? 36 + kScale : 36);
  std::string html = text(2, 14, "start", m.row_title, "title");
  double free_from = 0;
  for (std::size_t r = 0; r < m.values.size(); ++r) {
    const double y = kTop + height * static_cast<double>(r);
    if (y >= free_from) {
      html += text(kLeft - 6, y + height / 2 + 4, "end", r < m.rows.size() ? m.rows[r] : "");
      free_from = y + 13;
    }
    for (std::size_t c = 0; c < m.values[r].size(); ++c) {
      const double v = m.values[r][c];
      if (!std::isfinite(v)) continue;
      html += fmt::format(
          "<rect class=\"p\" {} data-run=\"{}\" data-x=\"{}\" data-y=\"{}\" data-value=\"{}\" x=\"{:.2f}\" "
          "y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\"><title>{}</title></rect>\n",
          fill_of(v, m), escaped(m.of), c, r, exact(v), kLeft + width * static_cast<double>(c), y, width - 1,
          height - 1,
          escaped(fmt::format("{} {}, {} {}\n{} of the assignments", m.row_title, m.rows.at(r), m.column_title,
                              m.columns.at(c), for_people(v, Unit::Share))));
      if (width >= 30 && height >= 13)
        html += text(kLeft + width * (static_cast<double>(c) + 0.5), y + height / 2 + 4, "middle",
                     fmt::format("{:.1f}", 100 * v), "cell");
    }
  }
  free_from = 0;
  for (std::size_t c = 0; c < m.columns.size(); ++c) {
    const double half = 3.3 * static_cast<double>(m.columns[c].size()),
                 x = kLeft + width * (static_cast<double>(c) + 0.5);
    if (x - half < free_from || x + half > kWidth) continue;
    html += text(x, bottom + 14, "middle", m.columns[c]);
    free_from = x + half + 8;
  }
  html += text(kWidth - kRight, bottom + 30, "end", m.column_title, "title");
  if (m.scale) html += scale_of(m, bottom + 40);
  return {m.title, total, html};
}

std::string heat_map_figure(const HeatMap& m) {
  if (m.values.empty() || m.values.front().empty()) return "";
  const Panel panel = heat_map_panel(m);
  return fmt::format(
      "<figure class=\"chart\"><figcaption>{}</figcaption>\n<svg viewBox=\"0 0 {} {:.0f}\" role=\"img\" tabindex=\"0\" "
      "data-chart=\"{}\" aria-label=\"{}\">\n{}</svg></figure>\n",
      escaped(m.title), kWidth, panel.height, escaped(m.key),
      escaped(m.title + ": " + m.row_title + " by " + m.column_title), panel.svg);
}

}  // namespace upcycle::charts
