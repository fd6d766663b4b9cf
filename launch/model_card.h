#pragma once
#include <string>

#include "data/safetensors.h"
#include "parallel/model/tensor_source.h"

namespace upcycle {

// README.md beside an exported model, in Markdown with Hugging Face's metadata: sizes, how it was upcycled and how much
// its logits changed then, what it was trained on, held-out losses. `dir` is what the user named: of a run folder and
// its steps everything is known, of a Hugging Face directory only the sizes. What is not known is not said; of files
// there are the names without their folders.
std::string model_card(const TensorSource& source, const std::string& dir, const std::string& out, StoredType type,
                       const std::string& model_type);

}  // namespace upcycle
