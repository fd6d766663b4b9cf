#include <fmt/core.h>

#include <cmath>

#include "launch/study/page/sections.h"

// What the page opens with: the verdict, large, and the key figures.
namespace upcycle::study_page {

using charts::escaped;
using charts::for_people;
using charts::Unit;
using charts::with_sign;

namespace {

struct Figure {
  std::string name, value, more;
};

// What is no difference has no number in large letters, and what has one says below what it is.
std::string or_none(const std::string& says, double gain) {
  return says == "no difference" || !std::isfinite(gain) ? says : with_sign(gain, Unit::Share);
}

std::string said(const std::string& says) { return says == "no difference" ? "" : says + ": "; }

const Json* verdict_entry(const View& v, const char* list) {
  for (const Json& e : part(v.report, list))
    if (v.in_verdict_cell(e) && words(e, "arm") == v.candidate && words(e, "set") == v.new_set) return &e;
  return nullptr;
}

std::vector<Figure> figures(const View& v) {
  std::vector<Figure> all;
  const Json& cell = part(part(v.report, "study"), "verdict_cell");
  if (const Json* c = verdict_entry(v, "comparisons")) {
    all.push_back(
        {fmt::format("Gain of {} over {} in loss on {} text", v.candidate, v.baseline, v.new_set),
         or_none(words(*c, "says"), number(*c, "relative_gain")),
         fmt::format("{}{} nats, 95 % interval {} to {}; {}, budget {}", said(words(*c, "says")),
                     charts::decimals(number(*c, "difference"), 3, true), charts::decimals(number(*c, "low"), 3, true),
                     charts::decimals(number(*c, "high"), 3, true), v.name(grid_of(cell)),
                     v.budget(number(cell, "budget")))});
    const Json& cloze = part(*c, "cloze");
    if (cloze.is_object()) {
      const double gain = number(cloze, "relative_gain");
      all.push_back({"Gain in cloze score, chance corrected", or_none(words(cloze, "says"), gain),
                     fmt::format("{}{} ± {}{}", said(words(cloze, "says")),
                                 charts::decimals(number(cloze, "difference"), 3, true),
                                 charts::decimals(number(cloze, "standard_error"), 3),
                                 std::isfinite(gain) || words(cloze, "says") == "no difference"
                                     ? ""
                                     : "; no ratio: " + v.baseline + " is too near chance")});
    }
  }
  for (const Json& s : part(v.report, "serving"))
    if (words(s, "size") == words(cell, "size") && words(s, "arm") == v.candidate)
      all.push_back(
          {"Serving rate of " + v.candidate, for_people(number(s, "share_of_dense"), Unit::Share),
           fmt::format("of the dense model's at high demand, {} on {}", words(s, "source"), words(s, "machine"))});
  if (const Json* b = verdict_entry(v, "break_even")) {
    const double n = number(*b, "served_tokens");
    const std::string answer = words(*b, "answer");
    all.push_back({"Break-even, served tokens",
                   std::isfinite(n) ? (answer.starts_with("more than") ? "> " : "") + for_people(n, Unit::Count)
                   : answer.ends_with("never pays") ? "never pays"
                                                    : answer.substr(0, answer.find(':')),
                   answer});
  }
  std::size_t done = 0, failed = 0, runs = 0;
  double flops = 0, seconds = 0;
  for (const Json& run : part(v.report, "runs")) {
    ++runs;
    failed += words(run, "status") == "failed";
    if (words(run, "status") != "done") continue;
    ++done;
    if (number(run, "own_flops") > 0) flops += number(run, "own_flops");
    if (number(run, "own_device_seconds") > 0) seconds += number(run, "own_device_seconds");
  }
  all.push_back({"Runs done", fmt::format("{} of {}", done, runs),
                 failed > 0 ? fmt::format("{} failed", failed) : "none failed"});
  all.push_back({"Training in all", for_people(flops, Unit::Flops),
                 for_people(seconds, Unit::Seconds) + " of device time, by the runs that are done, sweeps included"});
  return all;
}

}  // namespace

namespace {

// What the words of the verdict mean.
std::string terms(const View& v) {
  if (v.baseline.empty() || v.candidate.empty()) return "";
  const std::string match = words(part(v.report, "study"), "match");
  const char* const equal = match == "tokens"      ? "as many tokens"
                            : match == "wall_time" ? "as much time"
                                                   : "as many FLOPs";
  return fmt::format(
      "<p class=\"intro\">{}: the dense model, trained further as it is. {}: the dense model turned into a Mixture of "
      "Experts, "
      "then trained with {}. The budget is what either may spend{}.</p>\n",
      escaped(v.baseline), escaped(v.candidate), equal,
      v.budgets_in_tokens ? ", in tokens of the former" : ", as a share of the FLOPs that pretraining took");
}

}  // namespace

std::string opening_section(const View& v) {
  std::string html = fmt::format("<header>\n<h1>Upcycling against continued pretraining: {}</h1>\n",
                                 escaped(words(part(v.report, "study"), "name")));
  const std::string verdict = words(v.report, "verdict");
  html += "<p class=\"verdict\">" + escaped(verdict.empty() ? "There is no verdict yet." : verdict) + "</p>\n" +
          terms(v) + "<dl class=\"figures\">\n";
  for (const Figure& f : figures(v))
    html += fmt::format("<div><dt>{}</dt><dd>{}</dd>{}</div>\n", escaped(f.name), escaped(f.value),
                        f.more.empty() ? "" : "<dd class=\"more\">" + escaped(f.more) + "</dd>");
  return html + "</dl>\n</header>\n";
}

}  // namespace upcycle::study_page
