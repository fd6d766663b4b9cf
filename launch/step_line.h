#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "parallel/train/step.h"

namespace upcycle {

// What a step's line says beside its result.
struct StepPace {
  std::int64_t step = 0, total = 0;
  double tokens_per_s = 0, mfu = 0;
  double seconds_left = 0;
  std::size_t memory = 0;  // bytes in use on rank 0
};

// One line for people (of a batch that grows its size too), its numbers in columns that stay where they are from step
// to step.
std::string step_line(const Config& config, const StepResult& result, const StepPace& pace);

// The share that is done as a bar, with the loss and the time left, for a terminal's last line.
std::string progress_bar(const StepResult& result, const StepPace& pace);

// The busiest expert's assignments over the mean of its layer, in the layer where that is most; 0 without experts.
double most_load(const StepResult& result);

}  // namespace upcycle
