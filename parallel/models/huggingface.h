#pragma once
#include <memory>
#include <string>

#include "parallel/model/tensor_source.h"

namespace upcycle {

// True where DIR has a config.json.
bool is_huggingface(const std::string& dir);

// A directory of one of the families, sharded or not. Tied embeddings are found under either name. Tensors of other
// dtypes than fp32 are converted. Every tensor the model needs is checked for presence and shape on opening; tensors it
// does not know are an InputError, except rotary inv_freq buffers.
std::unique_ptr<TensorSource> open_huggingface(const std::string& dir);

}  // namespace upcycle
