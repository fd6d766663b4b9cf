#pragma once
#include <memory>
#include <string>

#include "parallel/model/tensor_source.h"

namespace upcycle {

// True where DIR has a config.json.
bool is_huggingface(const std::string& dir);

// A Llama or Mixtral directory, sharded or not. Tied embeddings are found under either name. Tensors of other dtypes
// than fp32 are converted. Every tensor the model needs is checked for presence and shape on opening; tensors it does
// not know are an InputError, except rotary inv_freq buffers.
std::unique_ptr<TensorSource> open_huggingface(const std::string& dir);

struct ExportOptions {
  DType dtype = DType::F32;  // F32 or BF16
  std::int64_t max_shard_bytes = 5'000'000'000;
};

// Writes config.json, generation_config.json and (sharded) safetensors under canonical names; tied embeddings as
// model.embed_tokens.weight alone. Tokenizer files of `source_dir` travel along. OUT must not exist or be empty; it is
// written aside and renamed. Refuses by field name what Mixtral can not express.
void export_huggingface(TensorSource& source, const std::string& source_dir, const std::string& out,
                        const ExportOptions& options);

}  // namespace upcycle
