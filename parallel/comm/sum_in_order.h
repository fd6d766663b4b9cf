#pragma once
#include <cstdint>
#include <span>

#include "core/dtype.h"

namespace upcycle {

// out (n) = ((sources[0] + sources[1]) + sources[2]) + ..., each (n) of `dtype`, which is fp32, bf16 or fp64. bf16 is
// summed in fp32 and rounded once. The order is that of `sources` for every element, whatever n and the thread count.
// out may be one of the sources.
void sum_in_order(DType dtype, void* out, std::span<const void* const> sources, std::int64_t n);

}  // namespace upcycle
