#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "launch/study/page/sections.h"

// Throughput against latency.
namespace upcycle::study_page {

using charts::Chart;
using charts::for_people;
using charts::Section;
using charts::Series;
using charts::Unit;

namespace {

std::string model_name(const Json& serving) {
  const std::string arm = words(serving, "arm");
  return words(serving, "size") + ", " + (arm.empty() ? "dense" : arm);
}

// A dense model is what the baseline serves, and has its color.
int color_of(const View& v, const Json& serving) {
  const std::string arm = words(serving, "arm");
  return v.color(arm.empty() ? v.baseline : arm);
}

std::string serving_table(const View& v) {
  charts::Table t;
  t.head = {"model",
            "machine",
            "source",
            "requests/s",
            "tokens/s in and out",
            "latency alone",
            "device time per token",
            "of the dense rate"};
  t.text_columns = 3;
  for (const Json& s : part(v.report, "serving"))
    t.rows.push_back({charts::escaped(model_name(s)),
                      charts::escaped(fmt::format("{}, {} device{}", words(s, "machine"),
                                                  for_people(number(s, "devices"), Unit::Number),
                                                  number(s, "devices") == 1 ? "" : "s")),
                      charts::escaped(words(s, "source")), for_people(number(s, "requests_per_second"), Unit::Number),
                      for_people(number(s, "tokens_per_second"), Unit::Count),
                      for_people(number(s, "latency_alone"), Unit::Seconds),
                      for_people(number(s, "device_seconds_per_token"), Unit::Seconds),
                      for_people(number(s, "share_of_dense"), Unit::Share)});
  return charts::table_html(t);
}

}  // namespace

Section serving_section(const View& v) {
  Section s{
      "serving", "Serving curves",
      "Requests arrive at growing rates: throughput against the mean latency of a whole request. Filled points "
      "are rates that "
      "the model sustains, hollow ones it falls behind. The table's rates are those of high demand, when there is "
      "always a next request.",
      "", "Serving was neither measured nor predicted in this study."};
  std::vector<Chart> all;
  std::vector<std::string> sizes;
  for (const Json& entry : part(v.report, "serving"))
    if (std::ranges::find(sizes, words(entry, "size")) == sizes.end()) sizes.push_back(words(entry, "size"));
  for (const std::string& size : sizes) {
    Chart chart{"serving " + size,
                "Size " + size,
                {"mean latency of a request", Unit::Seconds, false, {}, {0}},
                {"tokens/s in and out", Unit::Count, false, {}, {0}},
                {}};
    for (const Json& entry : part(v.report, "serving")) {
      if (words(entry, "size") != size) continue;
      const std::string arm = words(entry, "arm");
      const int order = arm.empty() ? 0 : static_cast<int>(std::ranges::find(v.arms(), arm) - v.arms().begin());
      Series line{arm.empty() ? "dense" : arm, {color_of(v, entry), order, arm.empty() ? 0 : 1}, {}};
      for (const Json& p : part(entry, "curve")) {
        const Json& sustained = part(p, "sustained");
        const bool kept = sustained.is_boolean() && sustained.get<bool>();
        line.points.push_back(
            {number(p, "latency"), number(p, "tokens_per_second"), model_name(entry),
             fmt::format("{}\n{} requests/s, {}\n{} tokens/s, {}", model_name(entry),
                         for_people(number(p, "request_rate"), Unit::Number), kept ? "sustained" : "not sustained",
                         for_people(number(p, "tokens_per_second"), Unit::Count),
                         for_people(number(p, "latency"), Unit::Seconds))});
        line.points.back().hollow = !kept;
      }
      if (!line.points.empty()) chart.series.push_back(line);
    }
    double least = INFINITY, most = 0;
    for (const Series& line : chart.series)
      for (const charts::Point& p : line.points) {
        least = std::min(least, p.x);
        most = std::max(most, p.x);
      }
    if (least > 0 && most > 20 * least) {  // overload makes queues of seconds where a request alone takes milliseconds
      chart.x.log = true;
      chart.x.include = {};
    }
    all.push_back(chart);
  }
  s.body = charts::chart_group(all) + serving_table(v);
  return s;
}

}  // namespace upcycle::study_page
