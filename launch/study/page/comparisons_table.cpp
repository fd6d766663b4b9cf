#include "launch/study/page/comparisons_table.h"

#include <fmt/core.h>

#include <cmath>

#include "launch/charts/page.h"
#include "launch/study/page/interval.h"

namespace upcycle::study_page {

using charts::for_people;
using charts::Unit;

namespace {

std::string cloze_text(const Json& cloze) {
  if (!cloze.is_object()) return "–";
  if (words(cloze, "says") == "no difference") return "no difference";
  const double gain = number(cloze, "relative_gain");
  return std::isfinite(gain) ? charts::decimals(100 * gain, 1, true) + " %" : "too near chance";
}

}  // namespace

std::string comparisons_table(const View& v) {
  charts::Table t;
  t.head = {"arm against " + charts::escaped(v.baseline),
            "size",
            "tokens per parameter",
            "budget",
            "held-out text",
            "rates",
            "says",
            "difference, nats",
            "95 % interval: better ← 0 → worse",
            "gain",
            "loss",
            "loss of " + charts::escaped(v.baseline),
            "seeds",
            "cloze gain"};
  t.text_columns = 7;
  const Json& comparisons = part(v.report, "comparisons");
  const Interval interval(comparisons, v.candidate);
  for (const Json& c : comparisons) {
    const std::string says = words(c, "says"), kind = says == "better" ? "good" : says == "worse" ? "bad" : "";
    t.rows.push_back({charts::escaped(words(c, "arm")), charts::escaped(words(c, "size")),
                      for_people(number(c, "duration"), Unit::Number), v.budget(number(c, "budget")),
                      charts::escaped(words(c, "set")), charts::escaped(words(c, "rates")),
                      "<span class=\"" + kind + "\">" + charts::escaped(says) + "</span>",
                      charts::decimals(number(c, "difference"), 4, true),
                      interval.svg(c, v.color(words(c, "arm")), comparison_key(c)),
                      charts::decimals(100 * number(c, "relative_gain"), 2, true) + " %",
                      charts::decimals(number(c, "loss"), 4), charts::decimals(number(c, "baseline_loss"), 4),
                      for_people(number(c, "seeds"), Unit::Number), cloze_text(part(c, "cloze"))});
    t.row_classes.push_back(v.in_verdict_cell(c) && words(c, "arm") == v.candidate ? "key" : "");
  }
  if (t.rows.empty()) return "";
  return "<h3>All comparisons</h3>\n<p class=\"intro\">Shaded: the cell behind the verdict.</p>\n" +
         charts::table_html(t);
}

std::string comparison_key(const Json& c) {
  return fmt::format("{} {} {} {}", words(c, "size"), charts::exact(number(c, "duration")), words(c, "arm"),
                     words(c, "set"));
}

}  // namespace upcycle::study_page
