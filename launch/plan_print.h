#pragma once
#include <nlohmann/json.hpp>
#include <vector>

#include "parallel/plan/plan.h"
#include "parallel/plan/recompute_costs.h"

// What `upcycle plan` says of a plan. `memory`: bytes that a rank has; 0: not said. `host_rate`: bytes/s of host memory
// for train.optimizer_offload.
namespace upcycle {

void print(const Plan& plan, std::size_t memory, const Config& config, double host_rate);
void print(const std::vector<RecomputeCost>& costs);

nlohmann::ordered_json to_json(const Plan& plan, std::size_t memory, bool cuda, double host_rate);
nlohmann::ordered_json to_json(const std::vector<RecomputeCost>& costs);

// One row of the tables of launch/plan_tables.sh.
void print_row(const Plan& plan, const Config& config, std::size_t memory);

}  // namespace upcycle
