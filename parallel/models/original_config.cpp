#include "parallel/models/original_config.h"

#include <filesystem>

#include "core/config/check.h"
#include "parallel/models/family.h"

namespace upcycle {
namespace {

using Json = nlohmann::ordered_json;

void keep_tokens(const OriginalConfig& original, const ModelConfig& model, Json& file) {
  const auto keep = [&](const char* key, bool holds) {
    if (holds && original.file.contains(key)) file[key] = original.file[key];
  };
  keep("pad_token_id", true);
  keep("bos_token_id", model.bos_token_id == original.read.model.bos_token_id);
  keep("eos_token_id", model.eos_token_id == original.read.model.eos_token_id);
}

}  // namespace

std::string original_config(const std::vector<std::string>& travel) {
  for (const std::string& path : travel) {
    const std::string name = std::filesystem::path(path).filename().string();
    if (name == "config.json" || name == imported_config_name) return path;
  }
  return "";
}

OriginalConfig read_original_config(const std::string& path) {
  const std::string text = read_hf_config_text(path);
  return {parse_hf_config(text, path), Json::parse(text)};
}

Origin read_origin(const std::vector<std::string>& travel) {
  Origin origin;
  const std::string path = original_config(travel);
  if (!path.empty()) origin.config = read_original_config(path);
  for (const std::string& file : travel)
    if (file != path) origin.files.push_back(file);
  return origin;
}

Json with_original_keys(const OriginalConfig& original, Json written) {
  const HfConfig now = parse_hf_config(written.dump(), "config.json of the export");
  Json file = written;
  if (now.family == original.read.family) {
    file = original.file;
    if (spelled_out(now.model) != spelled_out(original.read.model)) {
      file.update(written);
      if (!original.file.contains("torch_dtype") && original.file.contains("dtype")) file.erase("torch_dtype");
    }
    for (const char* key : {"torch_dtype", "dtype"})
      if (original.file.contains(key)) file[key] = written["torch_dtype"];
    file.erase("auto_map");
  }
  keep_tokens(original, now.model, file);
  return file;
}

}  // namespace upcycle
