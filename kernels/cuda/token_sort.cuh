#pragma once
#include <cstddef>
#include <cstdint>

#include "core/device.h"
#include "kernels/cuda_scratch.h"
#include "kernels/op_types.h"

namespace upcycle::cuda {

// Indices of tokens (T) sorted by table row (token - vocab_begin), those of one row in token order; last come tokens
// without a row in [0, V). A stable radix sort. The result (T) is in the workspace, of scratch::token_sort(T) bytes. V
// > 0.
const std::int32_t* sort_tokens(Stream& stream, Workspace workspace, const std::int32_t* tokens, std::int64_t T,
                                std::int64_t V, std::int64_t vocab_begin);

}  // namespace upcycle::cuda
