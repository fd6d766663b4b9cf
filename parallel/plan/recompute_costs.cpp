#include "parallel/plan/recompute_costs.h"

#include <algorithm>

namespace upcycle {

std::vector<RecomputeCost> recompute_costs(PlannedRun run, int world, int rank) {
  std::vector<std::string> settings = {"none", "norms", "swiglu", "mlp", "attention", "selective", "full"};
  std::string& setting = run.config.train.recompute;
  if (std::find(settings.begin(), settings.end(), setting) == settings.end()) settings.push_back(setting);
  std::vector<RecomputeCost> costs;
  for (const std::string& s : settings) {
    setting = s;
    const Plan plan = make_plan(run, world, rank);
    RecomputeCost cost{s, plan.training_bytes(), plan.recomputed_bytes, plan.flops, plan.dispatch.bytes};
    for (const CollectiveCount& c : plan.fixed) cost.collective_bytes += c.bytes;
    costs.push_back(cost);
  }
  return costs;
}

}  // namespace upcycle
