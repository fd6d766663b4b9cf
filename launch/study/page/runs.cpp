#include <fmt/core.h>

#include <cmath>

#include "launch/study/page/sections.h"

// The table of all runs.
namespace upcycle::study_page {

using charts::escaped;
using charts::for_people;
using charts::Unit;

namespace {

std::string status_html(const Json& run) {
  const std::string status = words(run, "status");
  return status == "failed" ? "<span class=\"bad\">failed</span>" : escaped(status);
}

std::string purpose(const Json& run) {
  if (words(run, "kind") != "arm") return words(run, "kind");
  const Json &sweep = part(run, "sweep"), &result = part(run, "result");
  const bool swept = sweep.is_boolean() && sweep.get<bool>(), used = result.is_boolean() && result.get<bool>();
  return swept && used ? "sweep and result" : swept ? "sweep" : "result";
}

// The run's name, which opens what differs from the baseline's config and the command; an error stays in sight.
std::string name_html(const Json& run) {
  const Json& differences = part(run, "differences");
  std::string config, html = "<strong>" + escaped(words(run, "name")) + "</strong>";
  if (differences.is_object())
    for (const auto& [key, value] : differences.items())
      config += (config.empty() ? "" : "  ") + key + "=" + value.dump(-1, ' ', false, Json::error_handler_t::replace);
  const std::string command = words(run, "command");
  if (!config.empty() || !command.empty()) {
    html = "<details><summary>" + html + "</summary>";
    if (!config.empty()) html += "<div>Against the baseline: " + charts::code_html(config) + "</div>";
    if (!command.empty()) html += "<div>" + charts::code_html(command) + "</div>";
    html += "</details>";
  }
  if (!words(run, "error").empty()) html += "<div class=\"bad\">" + escaped(words(run, "error")) + "</div>";
  return html;
}

}  // namespace

charts::Section runs_section(const View& v) {
  charts::Section s{"runs", "All runs", "", "", "The study has no runs yet."};
  charts::Table t;
  t.text_columns = 4;
  std::vector<std::string> sets;
  for (const std::string& set : {v.new_set, v.old_set})
    if (!set.empty()) sets.push_back(set);
  const auto head = [&](const std::vector<std::string>& names) {
    t.head.insert(t.head.end(), names.begin(), names.end());
  };
  head({"run", "status", "for", "size", "tokens per parameter", "budget", "seed", "rate"});
  for (const std::string& set : sets)
    for (const char* what : {"loss, ", "bits/byte, ", "cloze score, "}) t.head.push_back(what + escaped(set));
  head({"loss of the last 50 steps", "tokens", "epochs", "FLOPs", "wall time", "tokens/s", "parameters", "active"});
  std::size_t failed = 0, missing = 0;
  for (const Json& run : part(v.report, "runs")) {
    const std::string status = words(run, "status");
    failed += status == "failed";
    missing += status == "missing";
    std::vector<std::string> row = {name_html(run),
                                    status_html(run),
                                    escaped(purpose(run)),
                                    escaped(words(run, "size")),
                                    for_people(number(run, "duration"), Unit::Number),
                                    number(run, "budget") > 0 ? v.budget(number(run, "budget")) : "–",
                                    for_people(number(run, "seed"), Unit::Number),
                                    for_people(number(run, "learning_rate"), Unit::Number)};
    for (const std::string& set : sets) {
      row.push_back(charts::decimals(number(part(run, "loss"), set.c_str()), 4));
      row.push_back(charts::decimals(number(part(run, "bits_per_byte"), set.c_str()), 4));
      const Json& cloze = part(part(run, "cloze"), set.c_str());
      row.push_back(cloze.is_object() ? charts::decimals(number(cloze, "corrected"), 3) + " ± " +
                                            charts::decimals(number(cloze, "standard_error"), 3)
                                      : "–");
    }
    row.push_back(charts::decimals(number(run, "last_50_loss"), 4));
    static const std::vector<std::pair<const char*, Unit>> costs = {
        {"tokens", Unit::Count},           {"epochs", Unit::Number},           {"flops", Unit::Flops},
        {"wall_seconds", Unit::Seconds},   {"tokens_per_second", Unit::Count}, {"parameters", Unit::Count},
        {"active_parameters", Unit::Count}};
    for (const auto& [key, unit] : costs) row.push_back(for_people(number(run, key), unit));
    t.rows.push_back(row);
  }
  if (t.rows.empty()) return s;
  s.intro = fmt::format("{} runs", t.rows.size());
  if (failed > 0) s.intro += fmt::format(", {} failed", failed);
  if (missing > 0) s.intro += fmt::format(", {} not run yet", missing);
  s.intro +=
      ". Open a run's name for what its config changes and for the command that repeats it. Losses are in nats per "
      "token, on the half of the held-out text that is reported.";
  s.body = charts::table_html(t);
  return s;
}

}  // namespace upcycle::study_page
