#pragma once
#include <functional>

#include "parallel/serve/loaded_model.h"

namespace upcycle {

struct SamplingOptions {
  double temperature = 0.8;  // 0: greedy
  std::int64_t top_k = 0;    // 0: all
  double top_p = 0.95;       // 1: all
  std::uint64_t seed = 1;
};

// Continues `prompt` (at least one token) by at most `most` tokens with a key/value cache; stops after `stop_id`
// (-1: never) or at the model's longest sequence. `emit` sees each token as it comes. Returns the new tokens.
std::vector<std::int32_t> generate(const LoadedModel& m, std::span<const std::int32_t> prompt, std::int64_t most,
                                   std::int32_t stop_id, const SamplingOptions& options,
                                   const std::function<void(std::int32_t)>& emit);

// One draw from logits (V), host memory, which it reorders. `draw` numbers the draws of one seed.
std::int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t draw);

}  // namespace upcycle
