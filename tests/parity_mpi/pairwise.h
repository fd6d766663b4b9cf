#pragma once
#include <vector>

namespace upcycle::test {

// Rows of levels, one per factor with levels 0 .. levels[f] - 1, such that any two levels of any two factors occur
// together in some row (a pairwise covering array, built greedily; the same on every machine).
using Row = std::vector<int>;
std::vector<Row> pairwise_rows(const std::vector<int>& levels);
// All combinations.
std::vector<Row> all_rows(const std::vector<int>& levels);

}  // namespace upcycle::test
