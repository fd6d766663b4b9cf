#include <fmt/core.h>

#include <cmath>

#include "launch/study/page/sections.h"

// How the study was made, and what its reader has to know.
namespace upcycle::study_page {

using charts::escaped;
using charts::for_people;
using charts::Unit;

charts::Section notes_section(const View& v) {
  charts::Section s{"notes", "How it was measured, and what to keep in mind", "", "",
                    "The report says nothing about how it was made."};
  const Json& study = part(v.report, "study");
  std::string how;
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) how += fmt::format("<dt>{}</dt><dd>{}</dd>\n", name, escaped(value));
  };
  const std::string match = words(study, "match"), rule = words(study, "flops");
  add("Study", words(study, "file"));
  add("Arms are compared at", match == "flops"       ? "equal FLOPs"
                              : match == "tokens"    ? "equal tokens"
                              : match == "wall_time" ? "equal wall time"
                                                     : "");
  add("FLOPs", (rule.empty() ? "" : "counted as “" + rule + "”: ") + words(study, "flops_rule"));
  add("Budgets", words(study, "schedule"));
  if (number(study, "seeds") > 0) add("Seeds", for_people(number(study, "seeds"), Unit::Number));
  const Json& cloze = part(v.report, "cloze");
  if (cloze.is_object())
    add("Cloze", fmt::format("{} items. {}", for_people(number(cloze, "items"), Unit::Number), words(cloze, "rule")));
  add("Machine", words(study, "machine"));
  if (number(study, "ranks") > 0)
    add("One run", fmt::format("{}, {} ranks, {} devices", words(study, "dtype"), number(study, "ranks"),
                               number(study, "devices")));
  add("The paper's points", words(part(v.report, "paper"), "source"));
  if (!how.empty()) s.body = "<dl class=\"how\">\n" + how + "</dl>\n";
  std::string notes;
  for (const Json& note : part(study, "notes"))
    if (note.is_string()) notes += "<li>" + escaped(note.get<std::string>()) + "</li>\n";
  if (!notes.empty()) s.body += "<h3>Notes</h3>\n<ul class=\"notes\">\n" + notes + "</ul>\n";
  return s;
}

}  // namespace upcycle::study_page
