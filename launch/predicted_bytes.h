#pragma once
#include <cstdint>
#include <vector>

#include "data/sampler.h"
#include "data/tokenizer.h"

namespace upcycle {

// UTF-8 bytes to which the predicted tokens of each part of a set decode, for its loss per byte; part i is tokens
// [cuts[i], cuts[i + 1]), the parts begin with the set. InputError for an id that the tokenizer does not know.
std::vector<std::int64_t> predicted_bytes(const TokenSet& set, const EvalWindows& windows, const Tokenizer& tokenizer,
                                          const std::vector<std::int64_t>& cuts);

}  // namespace upcycle
