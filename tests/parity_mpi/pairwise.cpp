#include "tests/parity_mpi/pairwise.h"

#include <array>
#include <set>

namespace upcycle::test {

std::vector<Row> pairwise_rows(const std::vector<int>& levels) {
  const int factors = static_cast<int>(levels.size());
  std::set<std::array<int, 4>> open;  // (factor, level, later factor, level) not yet together in any row
  for (int f = 0; f < factors; ++f)
    for (int g = f + 1; g < factors; ++g)
      for (int a = 0; a < levels[static_cast<std::size_t>(f)]; ++a)
        for (int b = 0; b < levels[static_cast<std::size_t>(g)]; ++b) open.insert({f, a, g, b});

  std::vector<Row> rows;
  while (!open.empty()) {
    Row row(levels.size(), -1);
    const auto [f0, a0, g0, b0] = *open.begin();
    row[static_cast<std::size_t>(f0)] = a0;
    row[static_cast<std::size_t>(g0)] = b0;
    const auto closes = [&](int f, int a) {  // open pairs of level a with what the row has
      int count = 0;
      for (int g = 0; g < factors; ++g) {
        const int b = row[static_cast<std::size_t>(g)];
        if (g == f || b < 0) continue;
        count += static_cast<int>(f < g ? open.count({f, a, g, b}) : open.count({g, b, f, a}));
      }
      return count;
    };
    for (int f = 0; f < factors; ++f) {
      int& level = row[static_cast<std::size_t>(f)];
      if (level >= 0) continue;
      // Ties are broken in rotation over the rows, so that no level is favoured.
      const int n = levels[static_cast<std::size_t>(f)], first = static_cast<int>(rows.size()) % n;
      int best = first, most = closes(f, first);
      for (int i = 1; i < n; ++i) {
        const int a = (first + i) % n, count = closes(f, a);
        if (count > most) best = a, most = count;
      }
      level = best;
    }
    for (int f = 0; f < factors; ++f)
      for (int g = f + 1; g < factors; ++g)
        open.erase({f, row[static_cast<std::size_t>(f)], g, row[static_cast<std::size_t>(g)]});
    rows.push_back(row);
  }
  return rows;
}

std::vector<Row> all_rows(const std::vector<int>& levels) {
  std::vector<Row> rows{{}};
  for (const int n : levels) {
    std::vector<Row> longer;
    for (const Row& row : rows)
      for (int level = 0; level < n; ++level) {
        longer.push_back(row);
        longer.back().push_back(level);
      }
    rows = std::move(longer);
  }
  return rows;
}

}  // namespace upcycle::test
