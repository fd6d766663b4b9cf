#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace upcycle {

struct RopeSizes {
  std::int64_t T, heads, positions, R;  // positions, R: rows and columns of the table
};

RopeSizes check_rope(const Tensor& x, std::int64_t D, const Tensor& table, const Tensor& positions);

}  // namespace upcycle
