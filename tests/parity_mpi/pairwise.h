#pragma once
#include <vector>

namespace upcycle::test {

// Rows of levels, one a factor with levels 0 .. levels[f] - 1, such that any two levels of any two factors meet in some
// row (a pairwise covering array, greedily; the same on every machine).
using Row = std::vector<int>;
std::vector<Row> pairwise_rows(const std::vector<int>& levels);
// All of them.
std::vector<Row> all_rows(const std::vector<int>& levels);

}  // namespace upcycle::test
