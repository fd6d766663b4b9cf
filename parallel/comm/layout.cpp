#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "parallel/comm/mesh.h"

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

// Sizes are compared as ratios: from 6, 4 and 9 are as far. A changed etp costs as much as a factor of two.
double ratio_distance(std::int64_t a, std::int64_t b) {
  return std::abs(std::log2(static_cast<double>(a) / static_cast<double>(b)));
}

std::string nearest_layouts(std::int64_t world, std::int64_t tp, std::int64_t ep, std::int64_t etp) {
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
  const auto shown = static_cast<std::ptrdiff_t>(std::min<std::size_t>(choices.size(), 3));
  // Fewer changes first among equally near ones; then the sizes, so that every rank prints the same line.
  std::partial_sort(choices.begin(), choices.begin() + shown, choices.end(), [](const Choice& a, const Choice& b) {
    if (std::abs(a.distance - b.distance) > 1e-9) return a.distance < b.distance;
    return std::tie(b.changed, a.tp, a.ep, a.etp) > std::tie(a.changed, b.tp, b.ep, b.etp);
  });
  std::string text;
  for (auto c = choices.begin(); c != choices.begin() + shown; ++c) {
    text += fmt::format("{}tp={} ep={} etp={}", text.empty() ? "" : ", ", c->tp, c->ep, c->etp);
  }
  return text;
}

}  // namespace

Layout make_layout(int world, int tp, int ep, int etp) {
  if (world < 1) input_error("world={}: a run has at least 1 rank", world);
  const auto refuse = [&](const std::string& problem) {
    input_error("{}; layouts near it that work with world={}: {}", problem, world, nearest_layouts(world, tp, ep, etp));
  };
  if (tp < 1) refuse(fmt::format("parallel.tp={}: must be at least 1", tp));
  if (ep < 1) refuse(fmt::format("parallel.ep={}: must be at least 1", ep));
  if (etp != 1 && etp != tp) {
    refuse(fmt::format("parallel.etp={}: must be 1 (an expert whole on one rank) or parallel.tp={}", etp, tp));
  }
  if (world % tp != 0) {
    refuse(fmt::format("parallel.tp={} does not divide world={} ranks (world = tp * dp)", tp, world));
  }
  const std::int64_t expert_ranks = static_cast<std::int64_t>(etp) * ep;
  if (world % expert_ranks != 0) {
    refuse(fmt::format("parallel.etp={} * parallel.ep={} does not divide world={} ranks (world = etp * ep * edp)", etp,
                       ep, world));
  }
  return {
      .world = world, .tp = tp, .dp = world / tp, .ep = ep, .etp = etp, .edp = static_cast<int>(world / expert_ranks)};
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
