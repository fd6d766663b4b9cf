#pragma once
#include <string>
#include <vector>

#include "parallel/plan/plan.h"

namespace upcycle {

// What one value of train.recompute costs a step of one rank, and the memory that the rank then needs.
struct RecomputeCost {
  std::string setting;
  std::size_t memory = 0;              // Plan::training_bytes
  std::size_t recomputed_bytes = 0;    // of activations that are made again
  double flops = 0;                    // per step
  std::uint64_t collective_bytes = 0;  // that it gives to collectives per step
};

// Of none, each class by itself, selective and full, and of the run's own setting if it is another; none comes first.
// Throws InputError as make_plan does.
std::vector<RecomputeCost> recompute_costs(PlannedRun run, int world, int rank);

}  // namespace upcycle
