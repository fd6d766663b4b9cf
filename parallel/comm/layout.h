#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace upcycle {

// The layout of ranks. Dense parameters: world = tp * dp, tp ranks adjacent (rank = dp_rank * tp + tp_rank).
// Experts: world = etp * ep * edp, etp ranks adjacent, then ep (rank = (edp_rank * ep + ep_rank) * etp + etp_rank).
struct Layout {
  int world = 1, tp = 1, dp = 1, ep = 1, etp = 1, edp = 1;
};

// What a layout must suit beside the number of ranks.
struct LayoutNeeds {
  std::function<std::string(const Layout&)> problem_of;  // "" where it works
  std::string of = "this model";                         // whose needs they are
  std::string change = "the number of ranks";            // what to change where no layout works
};

// Fills dp and edp in; throws InputError naming the fields and the nearest layouts that work.
// etp is 1 (an expert whole on one rank) or tp.
Layout make_layout(int world, std::int64_t tp, std::int64_t ep, std::int64_t etp, const LayoutNeeds& needs = {});

// What make_layout would refuse (world is at least 1), "" where nothing is wrong; and up to three layouts near the one
// asked for, of those that `works` accepts (all where it is empty): "tp=2 ep=4 etp=1, ...".
std::string layout_problem(int world, std::int64_t tp, std::int64_t ep, std::int64_t etp);
std::string nearest_layouts(int world, std::int64_t tp, std::int64_t ep, std::int64_t etp,
                            const std::function<bool(const Layout&)>& works = {});

// A rank's place in each group.
struct Coordinates {
  int tp = 0, dp = 0, ep = 0, etp = 0, edp = 0;
};
Coordinates coordinates_of(const Layout& layout, int rank);

}  // namespace upcycle
