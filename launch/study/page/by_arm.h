#pragma once
#include <string>

#include "launch/study/page/view.h"

namespace upcycle::study_page {

// What `html_of` says of one run of each arm that has experts: of the verdict's cell if the arm has a run there, else
// its first. The candidate's part is open, those of the other arms can be opened.
std::string by_arm(const View& view, std::string (*html_of)(const View&, const Json& run));

}  // namespace upcycle::study_page
