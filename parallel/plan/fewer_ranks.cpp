#include "parallel/plan/fewer_ranks.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel/plan/fit.h"

namespace upcycle {
namespace {

// Sizes are compared as ratios: 4 and 9 are equally far from 6. A changed etp costs as much as a factor of two.
double distance(const Layout& l, const ParallelConfig& from) {
  const auto apart = [](std::int64_t a, std::int64_t b) {
    return std::abs(std::log2(static_cast<double>(a) / static_cast<double>(b)));
  };
  return apart(l.tp, from.tp) + apart(l.ep, from.ep) + ((l.etp == 1) == (from.etp == 1) ? 0 : 1);
}

bool works(const PlannedRun& given, const Layout& l, std::size_t memory) {
  const TrainConfig& t = given.config.train;
  if (t.global_batch_size % (t.micro_batch_size * l.dp) != 0) return false;  // before the model is laid out for it
  const PlannedRun run = with_layout(given, l);
  return layout_problem(run, l).empty() && (memory == 0 || make_plan(run, l, 0).peak_bytes() <= memory);
}

}  // namespace

std::optional<Layout> layout_of_fewer_ranks(const PlannedRun& run, int most, std::size_t memory) {
  const ParallelConfig& p = run.config.parallel;
  for (int world = most; 2 * std::int64_t{world} > most; --world) {
    if (!layout_problem(world, p.tp, p.ep, p.etp).empty()) continue;
    const Layout l = make_layout(world, p.tp, p.ep, p.etp);
    if (works(run, l, memory)) return l;
  }
  for (int world = most; world > 0; --world) {
    std::vector<Layout> layouts = layouts_of(world, run.config.model.is_moe());
    std::ranges::stable_sort(layouts, {}, [&](const Layout& l) { return distance(l, p); });
    for (const Layout& l : layouts)
      if (works(run, l, memory)) return l;
  }
  return {};
}

}  // namespace upcycle
