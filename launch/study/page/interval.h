#pragma once
#include <string>

#include "launch/study/report.h"

namespace upcycle::study_page {

// The 95 % interval of a comparison as a small SVG for a table's cell; all of a table share one scale, that of
// the candidate's, with 0 in it: what lies beyond it is an arrow at its end.
class Interval {
 public:
  Interval(const Json& comparisons, const std::string& candidate);
  std::string svg(const Json& comparison, int color, const std::string& of) const;

 private:
  double low_ = 0, high_ = 0;
};

}  // namespace upcycle::study_page
