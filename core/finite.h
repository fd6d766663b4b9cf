#pragma once
#include <cstdint>

namespace upcycle {

// The first of `n` values that is NaN or infinite, -1 where all are numbers. One vectorised pass.
std::int64_t first_not_finite(const float* values, std::int64_t n);

}  // namespace upcycle
