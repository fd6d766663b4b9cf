#include "launch/study/page/by_arm.h"

namespace upcycle::study_page {
namespace {

std::vector<const Json*> shown_runs(const View& v) {
  std::vector<const Json*> all;
  for (const std::string& arm : v.arms()) {
    const Json* chosen = nullptr;
    for (const Json* run : v.results(arm))
      if (part(*run, "experts").is_object() &&
          (chosen == nullptr || (v.in_verdict_cell(*run) && !v.in_verdict_cell(*chosen))))
        chosen = run;
    if (chosen != nullptr) all.push_back(chosen);
  }
  return all;
}

}  // namespace

std::string by_arm(const View& v, std::string (*html_of)(const View&, const Json&)) {
  std::string html;
  for (const Json* run : shown_runs(v)) {
    const std::string body = html_of(v, *run), arm = words(*run, "arm");
    if (body.empty()) continue;
    const std::string head = charts::escaped(arm + ": " + words(*run, "name"));
    html += arm == v.candidate ? "<p class=\"caption\">" + head + "</p>\n" + body
                               : "<details><summary>" + head + "</summary>\n" + body + "</details>\n";
  }
  return html;
}

}  // namespace upcycle::study_page
