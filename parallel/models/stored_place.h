#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "parallel/model/params.h"
#include "parallel/models/family.h"

namespace upcycle {

// Where a family stores a parameter: in a tensor, seen as a matrix ((a, b, c) is (a b, c), (n) is (1, n)), from `row`
// and `column` on.
struct StoredPlace {
  std::string tensor;
  std::vector<std::int64_t> shape;  // of the tensor
  std::int64_t row = 0, column = 0;
  Rectangle of(const Rectangle& part) const { return {row + part.row, column + part.column, part.rows, part.columns}; }
};
std::map<std::string, StoredPlace> stored_places(const Family& family, const ModelConfig& model);  // by canonical name

}  // namespace upcycle
