#pragma once
#include <string>
#include <vector>

#include "launch/study/study.h"

namespace upcycle {

// What RUN/metrics.jsonl says (run_curves.h) in the form that the report has: "curve", "held_out" of these sets, and
// "load" of a run. Without the file empty; one that can not be read is warned of.
struct CurvesJson {
  Json curve, held_out, load;
};
CurvesJson curves_json(const std::string& folder, const std::vector<std::pair<std::string, std::string>>& sets);

}  // namespace upcycle
