#include <algorithm>

#include "launch/charts/chart.h"
#include "launch/study/page/sections.h"
#include "launch/study/report.h"

namespace upcycle {

std::string report_html(const Json& report) {
  using namespace study_page;
  const View view(report);
  const std::vector<charts::Section> sections = {gain_section(view),    loss_section(view),   curves_section(view),
                                                 quality_section(view), load_section(view),   similarity_section(view),
                                                 serving_section(view), sweeps_section(view), break_even_section(view),
                                                 runs_section(view),    notes_section(view)};
  std::string body = opening_section(view) + charts::contents_html(sections);
  for (const charts::Section& s : sections) body += charts::section_html(s);
  return charts::page_of(words(part(report, "study"), "name") + ": upcycling against continued pretraining", body);
}

std::string gain_svg(const Json& report) {
  using namespace study_page;
  std::vector<charts::Chart> charts = gain_charts(View(report));
  charts.resize(std::min<std::size_t>(2, charts.size()));
  return charts::charts_svg(charts);
}

}  // namespace upcycle
