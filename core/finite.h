#pragma once
#include <cstdint>

namespace upcycle {

// Index of the first of `n` values that is NaN or infinite, -1 if all are finite. One vectorised pass.
std::int64_t first_not_finite(const float* values, std::int64_t n);

}  // namespace upcycle
