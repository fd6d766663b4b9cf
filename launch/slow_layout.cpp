#include "launch/slow_layout.h"

#include <fmt/core.h>

namespace upcycle {

std::vector<std::string> slow_layout(const Plan& plan, const StepRates& rates, bool timed) {
  const Layout& l = plan.layout;
  std::vector<std::string> notes;
  if (l.tp > rates.ranks_per_machine)
    notes.push_back(
        fmt::format("parallel.tp = {} spans machines of {} ranks: every layer's activations cross the network several "
                    "times; choose parallel.tp <= {}",
                    l.tp, rates.ranks_per_machine, rates.ranks_per_machine));
  if (l.ep > 1 && l.ep * l.etp > rates.ranks_per_machine)
    notes.push_back(
        fmt::format("parallel.ep * parallel.etp = {} spans machines of {} ranks: tokens cross the network on their way "
                    "to experts; choose at most {}",
                    l.ep * l.etp, rates.ranks_per_machine, rates.ranks_per_machine));
  if (!timed) return notes;
  const StepTime t = step_time(plan, rates);
  if (t.collectives > t.products)
    notes.push_back(
        fmt::format("collectives take {:.2g} s of a step, products {:.2g} s: raise train.global_batch_size, or see "
                    "--fit for another layout",
                    t.collectives, t.products));
  if (t.offload > t.products)
    notes.push_back(
        fmt::format("the offloaded update takes {:.2g} s of a step, products {:.2g} s: raise train.global_batch_size",
                    t.offload, t.products));
  if (plan.memory_bytes / rates.memory > plan.flops / rates.products)
    notes.push_back(
        "products wait for the device's memory: raise train.micro_batch_size, or lower parallel.tp, so that each is "
        "larger");
  return notes;
}

}  // namespace upcycle
