#include "parallel/model/rectangles.h"

#include <algorithm>
#include <set>

namespace upcycle {

Rectangle intersection(const Rectangle& a, const Rectangle& b) {
  const std::int64_t row = std::max(a.row, b.row), column = std::max(a.column, b.column);
  return {row, column, std::max<std::int64_t>(0, std::min(a.row + a.rows, b.row + b.rows) - row),
          std::max<std::int64_t>(0, std::min(a.column + a.columns, b.column + b.columns) - column)};
}

// Works in bands between all row borders: within a band every row has the same covered columns.
std::vector<Rectangle> disjoint(const std::vector<Rectangle>& rectangles) {
  std::set<std::int64_t> borders;
  for (const Rectangle& r : rectangles) borders.insert({r.row, r.row + r.rows});
  std::vector<Rectangle> out;
  std::vector<std::pair<std::int64_t, std::int64_t>> columns;
  for (auto top = borders.begin(); top != borders.end() && std::next(top) != borders.end(); ++top) {
    const std::int64_t row = *top, rows = *std::next(top) - row;
    columns.clear();
    for (const Rectangle& r : rectangles)
      if (r.row <= row && row + rows <= r.row + r.rows) columns.emplace_back(r.column, r.column + r.columns);
    std::sort(columns.begin(), columns.end());
    for (std::size_t i = 0; i < columns.size();) {
      const std::int64_t begin = columns[i].first;
      std::int64_t end = begin;
      for (; i < columns.size() && columns[i].first <= end; ++i) end = std::max(end, columns[i].second);
      // A band like the one above extends it.
      const auto above = std::find_if(out.rbegin(), out.rend(), [&](const Rectangle& r) {
        return r.row + r.rows == row && r.column == begin && r.columns == end - begin;
      });
      if (above != out.rend())
        above->rows += rows;
      else if (end > begin)
        out.push_back({row, begin, rows, end - begin});
    }
  }
  return out;
}

}  // namespace upcycle
