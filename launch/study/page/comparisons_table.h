#pragma once
#include <string>

#include "launch/study/page/view.h"

namespace upcycle::study_page {

// All comparisons of arms with the baseline, each with its interval drawn; "" where there are none.
std::string comparisons_table(const View& view);

std::string comparison_key(const Json& comparison);  // data-run of its points

}  // namespace upcycle::study_page
