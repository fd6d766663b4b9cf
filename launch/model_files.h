#pragma once
#include <memory>
#include <string>

#include "core/config/config.h"
#include "data/tokenizer.h"

namespace upcycle {

// The folder of the model's files: the step that a run folder's `latest` names, or the directory itself.
std::string model_folder(const std::string& dir);

// The tokenizer of a model: `given` where the user names one, else the sentencepiece file that travels with the
// checkpoint or lies in the Hugging Face directory; null where there is none. Checks that its ids fit the vocabulary.
std::unique_ptr<Tokenizer> find_tokenizer(const std::string& given, const std::string& model_dir,
                                          const ModelConfig& model);

// data.tokenizer's file, before a run that is to carry it along: InputError where it is missing, no tokenizer, of a
// larger vocabulary than the model's, or named so that nobody would find it beside the checkpoint.
void check_tokenizer(const std::string& file, const ModelConfig& model);

}  // namespace upcycle
