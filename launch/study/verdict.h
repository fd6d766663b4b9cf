#pragma once
#include <string>

#include "launch/study/study.h"

namespace upcycle {

// Two or three sentences with numbers: which of study.baseline and study.candidate is better at which budget, for the
// size and duration of study.verdict on study.new_set; what serving costs and when it pays; and what makes this
// uncertain. `report`: its comparisons, sweeps, serving and break_even are there.
std::string verdict(const Study& study, const Json& report);

}  // namespace upcycle
