#include "parallel/comm/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "core/check.h"
#include "core/error.h"

namespace upcycle {
namespace {

struct Choice {
  std::int64_t tp, ep, etp;
  double distance;
  int changed;  // fields that differ from what was asked for
};

std::vector<std::int64_t> divisors_of(std::int64_t n) {
  std::vector<std::int64_t> divisors;
  for (std::int64_t d = 1; d * d <= n; ++d) {
    if (n % d != 0) continue;
    divisors.push_back(d);
    if (d != n / d) divisors.push_back(n / d);
  }
  std::sort(divisors.begin(), divisors.end());
  return divisors;
}

Layout layout_of(int world, std::int64_t tp, std::int64_t ep, std::int64_t etp) {
  return {.world = world,
          .tp = static_cast<int>(tp),
          .dp = static_cast<int>(world / tp),
          .ep = static_cast<int>(ep),
          .etp = static_cast<int>(etp),
          .edp = static_cast<int>(world / (etp * ep))};
}

// Sizes are compared as ratios: 4 and 9 are equally far from 6. A changed etp costs as much as a factor of two.
double ratio_distance(std::int64_t a, std::int64_t b) {
  return std::abs(std::log2(static_cast<double>(a) / static_cast<double>(b)));
}

}  // namespace

std::string nearest_layouts(int world, std::int64_t tp, std::int64_t ep, std::int64_t etp,
                            const std::function<bool(const Layout&)>& works) {
  tp = std::max<std::int64_t>(tp, 1);
  ep = std::max<std::int64_t>(ep, 1);
  const bool whole = etp <= 1;
  std::vector<Choice> choices;
  const std::vector<std::int64_t> divisors = divisors_of(world);
  for (const std::int64_t t : divisors) {
    for (const bool e_whole : {true, false}) {
      if (!e_whole && t == 1) continue;
      const std::int64_t e_tp = e_whole ? 1 : t;
      for (const std::int64_t e : divisors) {
        if (world % (e_tp * e) != 0) continue;
        const double distance = ratio_distance(t, tp) + ratio_distance(e, ep) + (e_whole == whole ? 0 : 1);
        choices.push_back({t, e, e_tp, distance, (t != tp) + (e != ep) + (e_whole != whole)});
      }
    }
  }
  // Fewer changes first among equally near ones; then the sizes, so that every rank prints the same line.
  std::sort(choices.begin(), choices.end(), [](const Choice& a, const Choice& b) {
    if (std::abs(a.distance - b.distance) > 1e-9) return a.distance < b.distance;
    return std::tie(b.changed, a.tp, a.ep, a.etp) > std::tie(a.changed, b.tp, b.ep, b.etp);
  });
  std::string text;
  int shown = 0;
  for (const Choice& c : choices) {
    if (works && !works(layout_of(world, c.tp, c.ep, c.etp))) continue;
    text += fmt::format("{}tp={} ep={} etp={}", text.empty() ? "" : ", ", c.tp, c.ep, c.etp);
    if (++shown == 3) break;
  }
  return text;
}

std::string layout_problem(int world, std::int64_t tp, std::int64_t ep, std::int64_t etp) {
  if (tp < 1) return fmt::format("parallel.tp={}: must be at least 1", tp);
  if (ep < 1) return fmt::format("parallel.ep={}: must be at least 1", ep);
  if (etp != 1 && etp != tp)
    return fmt::format("parallel.etp={}: must be 1 (an expert whole on one rank) or parallel.tp={}", etp, tp);
  if (world % tp != 0) return fmt::format("parallel.tp={} does not divide world={} ranks (world = tp * dp)", tp, world);
  if (ep > world || world % (etp * ep) != 0)
    return fmt::format("parallel.etp={} * parallel.ep={} does not divide world={} ranks (world = etp * ep * edp)", etp,
                       ep, world);
  return "";
}

Layout make_layout(int world, std::int64_t tp, std::int64_t ep, std::int64_t etp, const LayoutNeeds& needs) {
  if (world < 1) input_error("world={}: a run has at least 1 rank", world);
  std::string problem = layout_problem(world, tp, ep, etp);
  if (problem.empty()) {
    const Layout layout = layout_of(world, tp, ep, etp);
    if (needs.problem_of) problem = needs.problem_of(layout);
    if (problem.empty()) return layout;
  }
  if (!needs.problem_of)
    input_error("{}; layouts near it that work with world={}: {}", problem, world, nearest_layouts(world, tp, ep, etp));
  const std::string near =
      nearest_layouts(world, tp, ep, etp, [&](const Layout& other) { return needs.problem_of(other).empty(); });
  if (near.empty())
    input_error("{}; no layout of world={} works for {}: change {}", problem, world, needs.of, needs.change);
  input_error("{}; layouts near it that work with world={} for {}: {}", problem, world, needs.of, near);
}

Coordinates coordinates_of(const Layout& layout, int rank) {
  UPCYCLE_CHECK(0 <= rank && rank < layout.world, "rank {} of a world of {}", rank, layout.world);
  UPCYCLE_CHECK(layout.tp * layout.dp == layout.world && layout.etp * layout.ep * layout.edp == layout.world,
                "layout tp {} dp {} etp {} ep {} edp {} of world {}", layout.tp, layout.dp, layout.etp, layout.ep,
                layout.edp, layout.world);
  return {.tp = rank % layout.tp,
          .dp = rank / layout.tp,
          .ep = rank / layout.etp % layout.ep,
          .etp = rank % layout.etp,
          .edp = rank / (layout.etp * layout.ep)};
}

}  // namespace upcycle
