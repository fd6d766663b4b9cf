#pragma once
#include <functional>

#include "parallel/serve/loaded_model.h"
#include "parallel/serve/sample.h"

namespace upcycle {

// Continues `prompt` (at least one token) by at most `most` tokens with a key/value cache; stops after `stop_id` (-1:
// never) or at the model's longest sequence. `emit` is called with each token. Returns the new tokens.
std::vector<std::int32_t> generate(const LoadedModel& m, std::span<const std::int32_t> prompt, std::int64_t most,
                                   std::int32_t stop_id, const SamplingOptions& options,
                                   const std::function<void(std::int32_t)>& emit);

}  // namespace upcycle
