#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace upcycle {

struct EmbeddingSizes {
  std::int64_t T, V, H;
};

EmbeddingSizes check_embedding_forward(const Tensor& out, const Tensor& table, const Tensor& tokens);
EmbeddingSizes check_embedding_backward(const Tensor& dtable, const Tensor& dout, const Tensor& tokens);

}  // namespace upcycle
