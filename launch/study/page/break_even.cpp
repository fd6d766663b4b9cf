#include <fmt/core.h>

#include <cmath>

#include "launch/study/page/sections.h"

// After how many served tokens the dense model's cheaper serving has paid for its longer training.
namespace upcycle::study_page {

using charts::Chart;
using charts::for_people;
using charts::Series;
using charts::Unit;

namespace {

Chart equal_total(const View& v, const Json& entry) {
  const std::string arm = words(entry, "arm");
  Chart chart{
      fmt::format("total {} {} {} {}", arm, words(entry, "size"), number(entry, "duration"), number(entry, "budget")),
      arm + ": " + v.name(grid_of(entry)) + ", budget " + v.budget(number(entry, "budget")),
      {"served tokens", Unit::Count, true},
      {"loss at equal total cost, nats"},
      {}};
  Series cpt{v.baseline, {v.color(v.baseline), 0, 0}, {}}, moe{arm, {v.color(arm), 1, 1}, {}};
  for (const Json& p : part(entry, "equal_total")) {
    const double n = number(p, "served_tokens");
    if (!(n > 0)) continue;  // the logarithm of none
    const std::string tip = fmt::format(
        "{} served tokens\ntotal {} of device time\n{} {}, {} {}", for_people(n, Unit::Count),
        for_people(number(p, "total_device_seconds"), Unit::Seconds), v.baseline,
        for_people(number(p, "baseline_loss"), Unit::Number), arm, for_people(number(p, "loss"), Unit::Number));
    for (Series* s : {&cpt, &moe}) {
      const double loss = number(p, s == &cpt ? "baseline_loss" : "loss");
      if (std::isfinite(loss)) s->points.push_back({n, loss, chart.key, tip});
    }
  }
  if (!cpt.points.empty()) chart.series = {cpt, moe};  // else there is nothing to compare
  return chart;
}

}  // namespace

charts::Section break_even_section(const View& v) {
  charts::Section s{
      "break-even", "Break-even",
      "Served tokens after which the dense model, trained for longer to the same loss, has become the cheaper one: it "
      "trains for longer and serves for less.",
      "", "Break-even needs the cost of serving and finished runs of both arms; one of them is missing."};
  charts::Table t;
  t.head = {"arm",
            "cell",
            "held-out text",
            "answer",
            "served tokens n*",
            "loss to reach",
            "C_cpt: " + charts::escaped(v.baseline) + " to reach it",
            "C_moe: its own training",
            "c_moe: per served token",
            "c_dense: per served token",
            "costs in"};
  t.text_columns = 4;
  std::vector<Chart> all, others;
  std::size_t without = 0;
  for (const Json& b : part(v.report, "break_even")) {
    t.rows.push_back(
        {charts::escaped(words(b, "arm")),
         charts::escaped(v.name(grid_of(b)) + ", budget " + v.budget(number(b, "budget"))),
         charts::escaped(words(b, "set")), charts::escaped(words(b, "answer")),
         for_people(number(b, "served_tokens"), Unit::Count), for_people(number(b, "loss_moe"), Unit::Number),
         for_people(number(b, "cpt_seconds_to_reach"), Unit::Seconds),
         for_people(number(b, "moe_seconds"), Unit::Seconds),
         for_people(number(b, "moe_seconds_per_token"), Unit::Seconds),
         for_people(number(b, "dense_seconds_per_token"), Unit::Seconds), charts::escaped(words(b, "unit"))});
    if (words(b, "set") != v.new_set) continue;
    const Chart chart = equal_total(v, b);
    without += !charts::has_points(chart);
    (v.in_verdict_cell(b) ? all : others).push_back(chart);
  }
  if (t.rows.empty()) return s;
  const std::string formula = words(v.report, "break_even_formula");
  if (!formula.empty()) s.body = "<p class=\"formula\">" + charts::code_html(formula) + "</p>\n";
  const std::string caption =
      "Losses at equal total cost, training plus serving this many tokens: the dense model trains for what it saves in "
      "serving";
  const std::string group = charts::chart_group(all, caption),
                    more = charts::chart_group(others, group.empty() ? caption : "");
  s.body += group;
  s.body += group.empty() || more.empty()
                ? more
                : "<details><summary>The same for the other cells</summary>\n" + more + "</details>\n";
  if (without > 0)
    s.body += fmt::format(
        "<p class=\"absent\">{} of {} cells have no plot of losses at equal total cost: no run of {} here cost as much "
        "as "
        "training the other arm.</p>\n",
        without, all.size() + others.size(), charts::escaped(v.baseline));
  s.body += "<h3>Inputs and answers</h3>\n" + charts::table_html(t);
  return s;
}

}  // namespace upcycle::study_page
