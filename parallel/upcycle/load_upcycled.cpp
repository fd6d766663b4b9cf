#include "parallel/upcycle/load_upcycled.h"

#include <algorithm>

#include "core/check.h"
#include "core/error.h"

namespace upcycle {
namespace {

constexpr std::size_t kMakeBytes = std::size_t{1} << 20;  // drawn at once

// Parameters that come from one dense rectangle.
struct SameOrigin {
  Origin origin;
  std::vector<const ParamRow*> rows;
};

std::vector<SameOrigin> by_origin(const std::vector<const ParamRow*>& rows, const ExpertMaker& maker) {
  std::vector<SameOrigin> groups;
  std::multimap<std::string, std::size_t> places;
  for (const ParamRow* row : rows) {
    if (row->part.size() == 0) continue;
    Origin origin = maker.origin(*row, row->part);
    const auto [begin, end] = places.equal_range(origin.tensor);
    const auto same = std::find_if(begin, end, [&](const auto& p) {
      return !origin.tensor.empty() && groups[p.second].origin.part == origin.part;
    });
    if (same != end) {
      groups[same->second].rows.push_back(row);
      continue;
    }
    places.emplace(origin.tensor, groups.size());
    groups.push_back({std::move(origin), {row}});
  }
  return groups;
}

// Makes `part` of a row from the origin's values, which it does not change, and stores it.
void make_part(const ParamRow& row, const Rectangle& part, const float* values, const ExpertMaker& maker,
               std::vector<float>& made, const StoreRows& store) {
  if (!maker.changes(row)) return store(row, part, values);
  made.assign(values, values + part.size());
  maker.make(row, part, made.data());
  store(row, part, made.data());
}

// Rows that come from no dense tensor.
void make_rows(const ParamRow& row, const ExpertMaker& maker, std::size_t buffer_bytes, const StoreRows& store) {
  const std::int64_t columns = row.part.columns,
                     fit = static_cast<std::int64_t>(buffer_bytes / sizeof(float)) / columns;
  const std::int64_t step = std::clamp<std::int64_t>(fit, 1, row.part.rows);
  std::vector<float> values(static_cast<std::size_t>(step * columns));
  for (std::int64_t r = 0; r < row.part.rows; r += step) {
    const Rectangle part{row.part.row + r, row.part.column, std::min(step, row.part.rows - r), columns};
    maker.make(row, part, values.data());
    store(row, part, values.data());
  }
}

}  // namespace

void load_upcycled(const std::vector<const ParamRow*>& rows, TensorSource& dense, const ExpertMaker& maker,
                   std::size_t buffer_bytes, const StoreRows& store, std::vector<Want> also, const HostGroup* host) {
  const std::vector<SameOrigin> groups = by_origin(rows, maker);
  std::vector<float> made;
  for (const SameOrigin& group : groups) {
    const std::string& tensor = group.origin.tensor;
    if (tensor.empty()) {
      for (const ParamRow* row : group.rows) make_rows(*row, maker, kMakeBytes, store);
      continue;
    }
    if (!dense.has(tensor))
      input_error("{}: no tensor {}; {} is made of it", dense.name(), tensor, group.rows.front()->name);
    also.push_back(
        {tensor, group.origin.part, [&](const Rectangle& got, const float* values) {
           for (const ParamRow* row : group.rows)
             make_part(*row, {row->part.row + got.row - group.origin.part.row, row->part.column, got.rows, got.columns},
                       values, maker, made, store);
         }});
  }
  read_once(dense, also, host, buffer_bytes);
}

}  // namespace upcycle
