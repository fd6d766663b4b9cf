#pragma once
#include <vector>

#include "launch/study/report.h"

namespace upcycle {

// In the order of the report: pretraining before trunks before arms, then as the study lists sizes, durations, budgets
// and arms, then learning rates and seeds.
std::vector<StudyResult> in_order(const Study& study, std::vector<StudyResult> results);
std::vector<ServingResult> in_order(const Study& study, std::vector<ServingResult> serving);  // the dense model first

// "runs" of report.json. `results`: in order.
Json runs_json(const Study& study, const std::vector<StudyResult>& results);

// Keys whose values differ, dotted, with the values of `config`; checkpoint.dir is left out.
Json config_differences(const Config& config, const Config& baseline);

}  // namespace upcycle
