#pragma once
#include <cstdint>
#include <span>

#include "parallel/serve/request.h"

namespace upcycle {

// One draw from logits (V), host memory, which it reorders. `draw` numbers the draws of one seed.
std::int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t draw);

}  // namespace upcycle
