#include "launch/charts/chart.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>

#include "launch/charts/page.h"

namespace upcycle::charts {
namespace {

constexpr double kWidth = 400, kHeight = 280, kLeft = 52, kRight = 12, kTop = 28, kBottom = 46, kRadius = 4;
constexpr double kLetter = 7.2;  // pixels that a letter takes on average

std::string text(double x, double y, const char* anchor, const std::string& words, const char* kind = "") {
  return fmt::format("<text{} x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>",
                     *kind == '\0' ? "" : fmt::format(" class=\"{}\"", kind), x, y, anchor, escaped(words));
}

double width_of(const std::string& words) {
  const auto letters = std::ranges::count_if(words, [](char c) { return (c & 0xC0) != 0x80; });
  return kLetter * static_cast<double>(letters);
}

std::vector<double> x_values(const Chart& chart) {
  std::vector<double> all;
  for (const Series& s : chart.series)
    for (const auto* points : {&s.points, &s.through})
      for (const Point& p : *points) all.push_back(p.x);
  return all;
}

std::vector<double> y_values(const Chart& chart) {
  std::vector<double> all, aside;
  for (const Series& s : chart.series)
    for (const auto* points : {&s.points, &s.through})
      for (const Point& p : *points)
        for (const double y : {p.y, p.low, p.high})
          if (std::isfinite(y)) (s.aside ? aside : all).push_back(y);
  if (chart.crop && all.size() > 50) {
    std::ranges::sort(all);
    all.resize(all.size() - all.size() / 50);
  }
  const double most = all.empty() ? INFINITY : *std::ranges::max_element(all);
  std::ranges::copy_if(aside, std::back_inserter(all), [&](double y) { return y <= most; });
  all.insert(all.end(), chart.levels.begin(), chart.levels.end());
  return all;
}

std::string frame(const Chart& chart, const Scale& x, const Scale& y) {
  const double right = kWidth - kRight, bottom = kHeight - kBottom;
  std::string svg;
  for (const Tick& t : y.ticks()) {
    svg += fmt::format("<path class=\"grid\" d=\"M{} {:.1f}H{}\"/>", kLeft, y.at(t.value), right);
    svg += text(kLeft - 6, y.at(t.value) + 4, "end", t.label);
  }
  double free_from = 0;  // labels that would touch the one before are left out
  for (const Tick& t : x.ticks()) {
    svg += fmt::format("<path class=\"grid\" d=\"M{:.1f} {}V{}\"/>", x.at(t.value), kTop, bottom);
    const double half = width_of(t.label) / 2, at = std::min(x.at(t.value), kWidth - half - 1);
    if (at - half < free_from) continue;
    svg += text(at, bottom + 17, "middle", t.label);
    free_from = at + half + 8;
  }
  for (const double level : chart.levels)
    svg += fmt::format("<path class=\"level\" d=\"M{} {:.1f}H{}\"/>", kLeft, y.at(level), right);
  svg += fmt::format("<path class=\"axis\" d=\"M{} {}V{}H{}\"/>", kLeft, kTop, bottom, right);
  svg += text(2, 14, "start", chart.y.title, "title");
  svg += text(right, kHeight - 6, "end", chart.x.title, "title");
  return svg + "\n";
}

std::string line_of(const Series& s, const Scale& x, const Scale& y, bool log_x, bool log_y) {
  std::string d;
  const std::vector<Point>& points = s.through.empty() ? s.points : s.through;
  for (const Point& p : points) {
    if (!std::isfinite(p.x) || !std::isfinite(p.y) || (log_x && p.x <= 0) || (log_y && p.y <= 0)) continue;
    d += fmt::format("{}{:.1f} {:.1f}", d.empty() ? "M" : "L", x.at(p.x) + s.shift, y.at(p.y));
  }
  if (d.empty()) return "";
  return fmt::format("<path class=\"line {}{}\" data-points=\"{}\" d=\"{}\"{}{}/>\n", color_class(s.look),
                     s.thin ? " thin" : "", points.size(), d, s.thin ? "" : dash_attribute(s.look),
                     s.look.opacity < 1 ? fmt::format(" opacity=\"{:.2f}\"", s.look.opacity) : "");
}

// Where many points follow each other the line says more than their shapes.
double radius_of(const Series& s) { return s.thin ? 2.2 : s.points.size() > 12 && s.line ? 2 : kRadius; }

std::string marker(const Series& s, const Point& p, double x, double y) {
  const bool hollow = s.look.hollow || p.hollow;
  return fmt::format(
      "<path class=\"p {}{}\" data-run=\"{}\" data-x=\"{}\" data-y=\"{}\"{}{} d=\"{}\"><title>{}</title></path>\n",
      color_class(s.look), hollow ? " hollow" : "", escaped(p.of), exact(p.x), exact(p.y),
      std::isfinite(p.low) ? fmt::format(" data-low=\"{}\" data-high=\"{}\"", exact(p.low), exact(p.high)) : "",
      s.look.opacity < 1 ? fmt::format(" opacity=\"{:.2f}\"", s.look.opacity) : "",
      marker_path(s.look.shape, x, y, radius_of(s)), escaped(p.tip));
}

// A point above the axis: an arrow at its end; the last one of its series with the number.
std::string above(const Series& s, const Point& p, double x) {
  Series arrow = s;
  arrow.look.shape = 2;
  std::string svg = marker(arrow, p, x, kTop);
  if (&p != &s.points.back()) return svg;
  const std::string number = for_people(p.y, Unit::Number);
  const bool left = x + 7 + width_of(number) > kWidth;
  return svg + text(left ? x - 7 : x + 7, kTop + 12, left ? "end" : "start", number, "label");
}

std::string points_of(const Series& s, const Scale& xs, const Scale& ys) {
  std::string svg;
  for (const Point& p : s.points) {
    if (!xs.shows(p.x) || !std::isfinite(p.y)) continue;
    const double x = xs.at(p.x) + s.shift, y = ys.at(p.y);
    if (!ys.shows(p.y)) {
      if (!s.thin && y < kTop) svg += above(s, p, x);
      continue;
    }
    if (std::isfinite(p.low) && std::isfinite(p.high))
      svg += fmt::format("<path class=\"bar {0}\" d=\"M{1:.1f} {2:.1f}V{3:.1f}M{4:.1f} {2:.1f}h6M{4:.1f} {3:.1f}h6\"/>",
                         color_class(s.look), x, ys.at(p.low), ys.at(p.high), x - 3);
    if (p.ringed) svg += fmt::format("<circle class=\"ring\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"8\"/>", x, y);
    svg += marker(s, p, x, y);
    if (p.label.empty()) continue;
    const bool left = x + 10 + width_of(p.label) > kWidth;
    svg += text(left ? x - 10 : x + 10, y - 7, left ? "end" : "start", p.label, "label");
  }
  return svg;
}

// What stands in the legend of charts: each series once.
std::vector<const Series*> named(const std::vector<Chart>& charts) {
  std::vector<const Series*> all;
  std::set<std::string> seen;
  for (const Chart& c : charts)
    for (const Series& s : c.series)
      if (!s.name.empty() && !s.points.empty() && seen.insert(s.name).second) all.push_back(&s);
  return all;
}

// Its line and marker, 34 x 14.
std::string sample(const Series& s) {
  std::string svg;
  if (s.line)
    svg += fmt::format("<path class=\"line {}{}\" d=\"M1 7H33\"{}/>", color_class(s.look), s.thin ? " thin" : "",
                       s.thin ? "" : dash_attribute(s.look));
  if (s.markers)
    svg += fmt::format("<path class=\"mark {}{}\" d=\"{}\"/>", color_class(s.look), s.look.hollow ? " hollow" : "",
                       marker_path(s.look.shape, 17, 7, kRadius));
  return svg;
}

std::string legend_of(const std::vector<Chart>& charts) {
  std::string html;
  for (const Series* s : named(charts))
    html += fmt::format("<li><svg width=\"34\" height=\"14\" aria-hidden=\"true\">{}</svg>{}</li>", sample(*s),
                        escaped(s->name));
  return html.empty() ? "" : "<ul class=\"legend\">" + html + "</ul>\n";
}

// Frame, lines and points, in kWidth x kHeight.
std::string drawn(const Chart& c) {
  const Scale x(c.x, x_values(c), kLeft, kWidth - kRight), y(c.y, y_values(c), kHeight - kBottom, kTop);
  std::string svg = frame(c, x, y);
  // Lines are cut at the frame: an svg within an svg clips. Points lie above all lines.
  svg += fmt::format("<svg x=\"{0}\" y=\"{1}\" width=\"{2}\" height=\"{3}\" viewBox=\"{0} {1} {2} {3}\">\n", kLeft,
                     kTop, kWidth - kRight - kLeft + 1, kHeight - kBottom - kTop + 1);
  for (const Series& s : c.series)
    if (s.line) svg += line_of(s, x, y, c.x.log, c.y.log);
  svg += "</svg>\n";
  for (const Series& s : c.series)
    if (s.markers) svg += points_of(s, x, y);
  return svg;
}

}  // namespace

bool has_points(const Chart& chart) {
  return std::ranges::any_of(chart.series, [](const Series& s) { return !s.points.empty(); });
}

std::string chart_figure(const Chart& c) {
  return fmt::format(
             "<figure class=\"chart\"><figcaption>{}</figcaption>\n<svg viewBox=\"0 0 {} {}\" role=\"img\" "
             "tabindex=\"0\" data-chart=\"{}\" aria-label=\"{}\">\n",
             escaped(c.title), kWidth, kHeight, escaped(c.key),
             escaped(c.title + ": " + c.y.title + " against " + c.x.title)) +
         drawn(c) + "</svg></figure>\n";
}

std::string chart_group(const std::vector<Chart>& charts, const std::string& caption) {
  std::string figures;
  for (const Chart& c : charts)
    if (has_points(c)) figures += chart_figure(c);
  if (figures.empty()) return "";
  std::string html = "<div class=\"group\">\n";
  if (!caption.empty()) html += "<p class=\"caption\">" + escaped(caption) + "</p>\n";
  return html + legend_of(charts) + "<div class=\"charts\">\n" + figures + "</div></div>\n";
}

std::string charts_svg(const std::vector<Chart>& charts, const std::vector<Panel>& panels) {
  constexpr double kTitle = 26, kRow = 20, kGap = 20;
  const std::vector<const Series*> legend = named(charts);
  std::vector<Panel> all;
  for (const Chart& c : charts) all.push_back({c.title, kHeight, drawn(c)});
  all.insert(all.end(), panels.begin(), panels.end());
  double highest = 0;
  for (const Panel& p : all) highest = std::max(highest, p.height);
  const double width = static_cast<double>(all.size()) * (kWidth + kGap) + kGap,
               height = kTitle + highest + kRow * static_cast<double>(legend.size()) + kGap;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\">\n"
      "<style>{2}\nsvg {{ font-family: system-ui, sans-serif; }} .heading {{ fill: var(--ink); font-weight: 600; }}\n"
      ".paper {{ fill: var(--paper); }}</style>\n<rect class=\"paper\" width=\"{0}\" height=\"{1}\"/>\n",
      width, height, page_style);
  for (std::size_t i = 0; i < all.size(); ++i)
    svg += fmt::format("<svg x=\"{0}\" y=\"0\" width=\"{1}\" height=\"{2}\">{3}<svg y=\"{4}\">{5}</svg></svg>\n",
                       kGap + static_cast<double>(i) * (kWidth + kGap), kWidth, kTitle + all[i].height,
                       text(0, 18, "start", all[i].title, "heading"), kTitle, all[i].svg);
  double y = kTitle + highest;
  for (const Series* s : legend) {
    svg += fmt::format("<svg x=\"{}\" y=\"{}\" width=\"34\" height=\"14\">{}</svg>", kGap, y, sample(*s)) +
           text(kGap + 42, y + 11, "start", s->name) + "\n";
    y += kRow;
  }
  return svg + "</svg>\n";
}

}  // namespace upcycle::charts
