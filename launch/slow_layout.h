#pragma once
#include <string>
#include <vector>

#include "parallel/plan/step_time.h"

namespace upcycle {

// Why a layout that works is slow, one line for each reason, with what to change. By `rates` only where `timed`: they
// are those of GPUs.
std::vector<std::string> slow_layout(const Plan& plan, const StepRates& rates, bool timed);

}  // namespace upcycle
