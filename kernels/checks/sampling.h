#pragma once
#include <cstdint>

#include "kernels/op_types.h"

namespace upcycle {

struct SamplingSizes {
  std::int64_t parts, rows, V;
};
SamplingSizes check_sample_tokens(const Tensor& tokens, const Tensor& logits, std::int64_t vocabulary,
                                  const SamplingRows& rows);

}  // namespace upcycle
