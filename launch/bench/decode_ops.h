#pragma once
#include "launch/bench/op_case.h"
#include "launch/bench/operands.h"

namespace upcycle {

// The products of a decoding step of 1, 8 and 32 tokens, whose time is that of reading weights, and the attention of
// one step over a whole key/value cache. `weights` (any number, of the model's type) is more than caches hold: each
// product takes the next matrix of it, attention takes it as the cache. All must outlive the cases.
std::vector<OpCase> decode_cases(const Backend& backend, const Operands& operands, const Tensor& weights);

}  // namespace upcycle
