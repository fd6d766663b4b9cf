#include "parallel/model/check_values.h"

#include "core/error.h"
#include "core/finite.h"

namespace upcycle {

void check_values(const std::string& tensor, bool is_vector, const Rectangle& part, const float* values,
                  const std::function<std::string(std::int64_t row, std::int64_t column)>& file) {
  const std::int64_t at = first_not_finite(values, part.size());
  if (at < 0) [[likely]]
    return;
  const std::int64_t row = part.row + at / part.columns, column = part.column + at % part.columns;
  input_error(
      "{}: tensor {}[{}]: found {}, expected a number; the file was damaged or its training diverged: use another",
      file(row, column), tensor, is_vector ? fmt::format("{}", column) : fmt::format("{}, {}", row, column),
      values[at]);
}

}  // namespace upcycle
