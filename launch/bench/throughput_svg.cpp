#include "launch/bench/throughput_svg.h"

#include <fmt/core.h>

#include "launch/charts/axis.h"

namespace upcycle {
namespace {

constexpr double kWidth = 720, kHeight = 440, kLeft = 84, kRight = 24, kTop = 40, kBottom = 56;

std::string text(double x, double y, const char* anchor, const std::string& words) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     charts::escaped(words));
}

}  // namespace

std::string throughput_svg(const std::vector<Curve>& curves) {
  std::vector<double> latencies, rates;
  for (const Curve& c : curves)
    for (const Curve::Point& p : c.points) {
      latencies.push_back(p.latency);
      rates.push_back(p.tokens_per_s);
    }
  const double right = kWidth - kRight, bottom = kHeight - kBottom;
  const charts::Scale x({"", charts::Unit::Seconds, false, {}, {0}}, latencies, kLeft, right),
      y({"", charts::Unit::Count, false, {}, {0}}, rates, bottom, kTop);

  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" "
      "aria-label=\"Throughput against latency\">\n"
      "<style>\n"
      "svg {{ font: 13px sans-serif; }} .paper {{ fill: #ffffff; }}\n"
      "text {{ fill: #222222; }} .grid {{ stroke: #dddddd; }} .axis {{ stroke: #555555; }}\n"
      ".c0 {{ stroke: #0b62a8; }} .c1 {{ stroke: #b3470b; }} .line {{ fill: none; stroke-width: 2; }}\n"
      ".yes.c0 {{ fill: #0b62a8; }} .yes.c1 {{ fill: #b3470b; }} .no {{ fill: #ffffff; stroke-width: 2; }}\n"
      "@media (prefers-color-scheme: dark) {{\n"
      ".paper {{ fill: #16181c; }} text {{ fill: #e6e6e6; }} .grid {{ stroke: #3a3d42; }} .axis {{ stroke: #a0a0a0; "
      "}}\n"
      ".c0 {{ stroke: #6fb5ec; }} .c1 {{ stroke: #f0a06a; }} .yes.c0 {{ fill: #6fb5ec; }} .yes.c1 {{ fill: #f0a06a; "
      "}}\n"
      ".no {{ fill: #16181c; }}\n"
      "}}\n</style>\n<rect class=\"paper\" width=\"{0}\" height=\"{1}\"/>\n",
      kWidth, kHeight);
  for (const charts::Tick& t : x.ticks()) {
    svg += fmt::format("<line class=\"grid\" x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\"/>\n", x.at(t.value),
                       kTop, bottom);
    svg += text(x.at(t.value), bottom + 18, "middle", t.label);
  }
  for (const charts::Tick& t : y.ticks()) {
    svg += fmt::format("<line class=\"grid\" x1=\"{1}\" y1=\"{0:.1f}\" x2=\"{2}\" y2=\"{0:.1f}\"/>\n", y.at(t.value),
                       kLeft, right);
    svg += text(kLeft - 8, y.at(t.value) + 4, "end", t.label);
  }
  svg += fmt::format("<path class=\"axis line\" d=\"M{0} {1} V{2} H{3}\"/>\n", kLeft, kTop, bottom, right);
  svg += text((kLeft + right) / 2, kHeight - 14, "middle", "mean latency of a whole request");
  svg += fmt::format(
      "<text transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">throughput, tokens/s in "
      "and out</text>\n",
      (kTop + bottom) / 2);
  double key = kLeft;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const std::string color = fmt::format("c{}", i % 2);
    std::string path;
    for (const Curve::Point& p : curves[i].points)
      path += fmt::format("{}{:.1f} {:.1f} ", path.empty() ? "M" : "L", x.at(p.latency), y.at(p.tokens_per_s));
    if (!path.empty()) svg += fmt::format("<path class=\"line {}\" d=\"{}\"/>\n", color, path);
    for (const Curve::Point& p : curves[i].points)
      svg += fmt::format("<circle class=\"{} {}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\"/>\n", p.sustained ? "yes" : "no",
                         color, x.at(p.latency), y.at(p.tokens_per_s));
    svg += fmt::format("<circle class=\"yes {}\" cx=\"{:.1f}\" cy=\"20\" r=\"4\"/>\n", color, key + 6);
    svg += text(key + 16, 24, "start", curves[i].name);
    key += 40 + 7.5 * static_cast<double>(curves[i].name.size());
  }
  svg += text(right, 24, "end", "hollow: not sustained");
  return svg + "</svg>\n";
}

}  // namespace upcycle
