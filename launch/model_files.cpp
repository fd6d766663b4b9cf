#include "launch/model_files.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/config/strict_json.h"
#include "core/error.h"
#include "data/files.h"
#include "parallel/checkpoint/import.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/step_files.h"

namespace upcycle {
namespace {

std::unique_ptr<Tokenizer> open_fitting(const std::string& file, const ModelConfig& model) {
  auto tokenizer = open_tokenizer(file);
  if (tokenizer->vocab_size() > model.vocab_size)
    input_error(
        "{}: found a vocabulary of {} tokens, expected at most the model's vocab_size = {}; give the model's own "
        "tokenizer",
        file, tokenizer->vocab_size(), model.vocab_size);
  return tokenizer;
}

}  // namespace

std::string model_folder(const std::string& dir) { return is_checkpoint(dir) ? find_step_folder(dir) : dir; }

std::unique_ptr<Tokenizer> find_tokenizer(const std::string& given, const std::string& model_dir,
                                          const ModelConfig& model) {
  if (!given.empty()) return open_fitting(given, model);
  const std::string folder = model_folder(model_dir), name = choose_tokenizer(folder);
  return name.empty() ? nullptr : open_fitting(folder + "/" + name, model);
}

void check_tokenizer(const std::string& file, const ModelConfig& model) {
  const std::string name = std::filesystem::path(file).filename().string();
  if (file == "bytes" || name.ends_with(".model")) {
    (void)open_fitting(file, model);
  } else if (name == "tokenizer.json") {
    constexpr std::size_t most = std::size_t{1} << 28;
    (void)parse_strict_json(read_text(file, most), file);
  } else {
    input_error(
        "data.tokenizer: found {}, expected \"bytes\", a sentencepiece file NAME.model or a Hugging Face "
        "tokenizer.json: the name says which it is beside the checkpoint; rename it",
        file);
  }
}

}  // namespace upcycle
