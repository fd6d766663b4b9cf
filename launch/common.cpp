#include "launch/common.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "parallel/checkpoint/checkpoint.h"

namespace upcycle {

DType parse_dtype(const std::string& text) {
  if (text == "fp32") return DType::F32;
  if (text == "bf16") return DType::BF16;
  input_error("command line: --dtype: found '{}', expected fp32 or bf16", text);
}

std::string model_folder(const std::string& dir) {
  return is_checkpoint(dir) ? open_checkpoint(dir, false)->directory() : dir;
}

std::unique_ptr<Tokenizer> find_tokenizer(const std::string& given, const std::string& model_dir,
                                          const ModelConfig& model) {
  std::string file = given;
  if (file.empty()) {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(model_folder(model_dir)))
      if (entry.path().extension() == ".model") found.push_back(entry.path().string());
    if (found.empty()) return nullptr;
    file = *std::min_element(found.begin(), found.end());
  }
  auto tokenizer = open_tokenizer(file);
  if (tokenizer->vocab_size() > model.vocab_size)
    input_error("{}: a vocabulary of {} tokens, but the model's vocab_size is {}; give the model's own tokenizer", file,
                tokenizer->vocab_size(), model.vocab_size);
  return tokenizer;
}

}  // namespace upcycle
