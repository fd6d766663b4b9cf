#pragma once
#include <string>

#include "launch/study/page/view.h"

namespace upcycle::study_page {

std::string run_text(const View& view, const Json& run);  // the hover text of a run's point

}  // namespace upcycle::study_page
