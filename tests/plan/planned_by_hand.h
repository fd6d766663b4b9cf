#pragma once
#include "parallel/plan/step_time.h"

namespace upcycle {

// A plan with few numbers, and rates to go with them.
inline Plan plan_with(const Layout& layout) {
  Plan p;
  p.layout = layout;
  p.flops = 8e12;
  p.memory_bytes = 1e9;
  p.dispatch = {"ep", "all_to_all_v", 10, 4'000'000'000};
  p.fixed = {
      {"tp", "all_gather", 2, 1'000'000'000}, {"dp", "reduce_scatter", 1, 6'000'000'000}, {"world", "sum_of", 3, 16}};
  return p;
}
inline const StepRates kRates{4e12, 1e12, 2e9, 1e9, 1e-3, 5e9, 8};

}  // namespace upcycle
