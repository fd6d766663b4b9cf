#pragma once
#include <string>
#include <vector>

#include "launch/charts/chart.h"
#include "launch/charts/page.h"
#include "launch/study/page/view.h"

namespace upcycle::study_page {

std::string opening_section(const View& view);          // name, verdict, key figures
std::vector<charts::Chart> gain_charts(const View& v);  // what gain_section shows
charts::Section gain_section(const View& view);
charts::Section loss_section(const View& view);
charts::Section curves_section(const View& view);
charts::Section quality_section(const View& view);
charts::Section load_section(const View& view);
charts::Section similarity_section(const View& view);
charts::Section serving_section(const View& view);
charts::Section sweeps_section(const View& view);
charts::Section break_even_section(const View& view);
charts::Section runs_section(const View& view);
charts::Section notes_section(const View& view);

}  // namespace upcycle::study_page
