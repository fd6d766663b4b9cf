#include "parallel/plan/step_time.h"

#include <algorithm>

#include "core/check.h"

namespace upcycle {
namespace {

struct Group {
  int ranks, span;  // from its first rank to its last (layout.h)
};

Group group_of(const Layout& l, const std::string& name) {
  if (name == "tp") return {l.tp, l.tp};
  if (name == "ep") return {l.ep, l.ep * l.etp};
  if (name == "dp") return {l.dp, l.world};
  if (name == "edp") return {l.edp, l.world};
  return {l.world, l.world};
}

// Of the bytes that a rank gives, those that its link carries, in a ring of n.
double carried(const std::string& op, int n) {
  const double others = static_cast<double>(n - 1) / n;
  if (op == "all_gather") return n - 1;
  if (op == "all_reduce" || op == "sum_of") return 2 * others;
  return others;  // reduce_scatter, all_to_all_v, broadcast
}

double seconds(const CollectiveCount& c, const Layout& layout, const StepRates& rates) {
  const Group group = group_of(layout, c.group);
  if (group.ranks == 1) return 0;
  const double rate = group.span > rates.ranks_per_machine ? rates.network : rates.link;
  return static_cast<double>(c.bytes) * carried(c.op, group.ranks) / rate +
         static_cast<double>(c.calls) * rates.latency;
}

}  // namespace

StepTime step_time(const Plan& plan, const StepRates& rates) {
  UPCYCLE_CHECK(rates.products > 0 && rates.memory > 0 && rates.link > 0 && rates.network > 0 && rates.host > 0,
                "a rate is missing");
  StepTime t;
  t.products = std::max(plan.flops / rates.products, plan.memory_bytes / rates.memory);
  for (const CollectiveCount& c : plan.fixed) t.collectives += seconds(c, plan.layout, rates);
  t.collectives += seconds(plan.dispatch, plan.layout, rates);
  t.offload = plan.offload.host_memory / rates.host;
  return t;
}

}  // namespace upcycle
