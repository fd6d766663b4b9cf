#include "parallel/models/stored_place.h"

#include <algorithm>

namespace upcycle {

std::map<std::string, StoredPlace> stored_places(const Family& family, const ModelConfig& model) {
  const ParamTable table = make_global_table(model);
  std::map<std::string, StoredPlace> places;
  for (const ParamRow& row : table.rows) {
    const auto stack = std::find_if(family.stacks.begin(), family.stacks.end(), [&](const Stack& s) {
      return std::find(s.roles.begin(), s.roles.end(), row.role) != s.roles.end();
    });
    StoredPlace& place = places[row.name];
    std::int64_t before = 0, all = 0;  // of the stack's rows, or of a vector's elements
    const bool own = stack == family.stacks.end();
    for (const ParamRole role : own ? std::vector{row.role} : stack->roles) {
      const ParamRow* other = table.find(role, row.layer, row.expert);
      if (role == row.role) before = all;
      if (other != nullptr) all += other->is_vector ? other->columns : other->rows;
    }
    place.tensor = name_of(own ? family.pattern(row.role) : stack->pattern, row.layer, row.expert);
    if (row.is_vector) {
      place.shape = {all};
      place.column = before;
    } else {
      place.shape = {all, row.columns};
      place.row = before;
    }
    if (!own && row.expert >= 0) {
      place.shape.insert(place.shape.begin(), model.num_local_experts);
      place.row += row.expert * all;
    }
  }
  return places;
}

}  // namespace upcycle
