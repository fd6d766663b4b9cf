#pragma once
#include <cstdint>
#include <string>

#include "parallel/model/tensor_source.h"
#include "parallel/models/original_config.h"

namespace upcycle {

struct ExportOptions {
  StoredType type = StoredType::F32;  // one of weight_type.h
  std::int64_t max_shard_bytes = 5'000'000'000;
  std::string model_type;  // see exported_family
  bool exact = false;      // refuse values that type rounds
  std::string card;        // README.md; "": none is written
};

// Writes config.json, generation_config.json and (sharded) safetensors under the family's names; tied embeddings as the
// embedding only. The files of `origin` are copied beside them; the keys of config.json are those of the model's own
// (original_config.h). OUT must not exist or be empty; it is written aside and renamed. Refuses by field name what the
// family can not express, and by the tensor's name what is too large, or as a constant too small, for fp16.
void export_huggingface(TensorSource& source, const Origin& origin, const std::string& out,
                        const ExportOptions& options);

}  // namespace upcycle
