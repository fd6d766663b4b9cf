#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "parallel/model/tensor_source.h"

namespace upcycle {

struct ExportOptions {
  DType dtype = DType::F32;  // F32 or BF16
  std::int64_t max_shard_bytes = 5'000'000'000;
  std::string model_type;  // see exported_family
  bool exact = false;      // refuse values that dtype rounds
  std::string card;        // README.md; "": none is written
};

// Writes config.json, generation_config.json and (sharded) safetensors under the family's names; tied embeddings as the
// embedding only. The files `travel` (the tokenizer's) are copied beside them; the keys of config.json are those of the
// original among them (original_config.h). OUT must not exist or be empty; it is written aside and renamed. Refuses by
// field name what the family can not express.
void export_huggingface(TensorSource& source, const std::vector<std::string>& travel, const std::string& out,
                        const ExportOptions& options);

}  // namespace upcycle
