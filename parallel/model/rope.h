#pragma once
#include "core/config/config.h"
#include "core/tensor.h"

namespace upcycle {

// Fills table fp32 (positions, D), host memory: cos of the D/2 angles position * theta^(-2i/D), then their sin; with
// Llama-3's frequency scaling where the model asks for it (rope_type "llama3", Llama 3.1 model card).
void fill_rope_table(const Tensor& table, const ModelConfig& model);

}  // namespace upcycle
