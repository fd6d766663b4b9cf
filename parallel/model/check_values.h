#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "parallel/model/params.h"

namespace upcycle {

// InputError where `values`, the part of a tensor that was just read, hold NaN or an infinity: names the file (of the
// element (row, column) of the whole tensor), the tensor and the element.
void check_values(const std::string& tensor, bool is_vector, const Rectangle& part, const float* values,
                  const std::function<std::string(std::int64_t row, std::int64_t column)>& file);

}  // namespace upcycle
