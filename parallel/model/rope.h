#pragma once
#include "core/config/config.h"
#include "core/tensor.h"

namespace upcycle {

// Fills table fp32 (positions, R), host memory: cos of the R/2 angles position * theta^(-2i/R), then their sin,
// stretched as model.rope_scaling says, in fp64. `S`, the length of the sequences that the table is for, chooses
// between longrope's two sets of divisors: one table is not right for sequences on both sides of the original length.
void fill_rope_table(const Tensor& table, const ModelConfig& model, std::int64_t S);

// InputError, beginning with `what`, where a pass over sequences of `shortest` to `longest` tokens would not compute
// what the model says: attention within a window that does not hold them, or longrope on both sides of the original
// length.
void check_sequence_length(const ModelConfig& model, std::int64_t shortest, std::int64_t longest,
                           const std::string& what);

}  // namespace upcycle
