#pragma once
#include <memory>
#include <string>

#include "core/config/config.h"
#include "data/tokenizer.h"

namespace upcycle {

// The folder with the model's files: the step folder that a run folder's `latest` names, or `dir` itself.
std::string model_folder(const std::string& dir);

// The tokenizer of a model: `given` if not empty, else the sentencepiece file or tokenizer.json in the checkpoint or
// Hugging Face directory; null if there is none. Checks that its ids fit the vocabulary.
std::unique_ptr<Tokenizer> find_tokenizer(const std::string& given, const std::string& model_dir,
                                          const ModelConfig& model);

// Checks data.tokenizer's file, which checkpoints will contain: InputError if it is missing, not a tokenizer, has a
// larger vocabulary than the model, or has a name by which it would not be found in the checkpoint.
void check_tokenizer(const std::string& file, const ModelConfig& model);

}  // namespace upcycle
