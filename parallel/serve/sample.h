#pragma once
#include <cstdint>
#include <span>

namespace upcycle {

struct SamplingOptions {
  double temperature = 0.8;  // 0: greedy
  std::int64_t top_k = 0;    // 0: all
  double top_p = 0.95;       // 1: all
  std::uint64_t seed = 1;
};

// One draw from logits (V), host memory, which it reorders. `draw` numbers the draws of one seed.
std::int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t draw);

}  // namespace upcycle
