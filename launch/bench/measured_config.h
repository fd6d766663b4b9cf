#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "parallel/train/step.h"

namespace upcycle {

// Any training config can be measured: what does not affect a step's speed (initial weights, data, length, schedule,
// checkpoints) is ignored. Model sizes that the config leaves to init.* are inherited from there. `file` may be empty.
// InputError as for training.
Config config_to_measure(const std::string& file, const std::vector<std::string>& overrides, std::int64_t steps);

// Tokens below `vocab`, drawn by the sequence's index.
SequenceSource random_sequences(std::int64_t vocab);

}  // namespace upcycle
