#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "parallel/models/hf_config.h"

// The config.json that a model came with. It travels with the weights, so that the model goes out with the keys that it
// came in with: those that we have no use for too.
namespace upcycle {

inline constexpr const char* imported_config_name = "imported_config.json";  // in a checkpoint

// Of the files that travel with a model: its path. "": there is none.
std::string original_config(const std::vector<std::string>& travel);

struct OriginalConfig {
  HfConfig read;
  nlohmann::ordered_json file;
};
OriginalConfig read_original_config(const std::string& path);

// What travels with a model to its export.
struct Origin {
  std::vector<std::string> files;  // paths of the tokenizer's, generation_config.json: copied as they are
  std::optional<OriginalConfig> config;

  const OriginalConfig* original() const { return config ? &*config : nullptr; }
};
// `travel`: all of these files (travelling_files, checkpoint/rank_files.h), of which one may be its config.json.
Origin read_origin(const std::vector<std::string>& travel);

// `written` is the config.json of an export, as we would write it without an original. In the same family it becomes
// the original's, but for the type of the tensors, and with all of ours where the model is not the same any more.
// auto_map is left out: it names Python files, and those do not travel. In another family the ids of tokens are the
// original's: padding, and all ends of text where it has several.
nlohmann::ordered_json with_original_keys(const OriginalConfig& original, nlohmann::ordered_json written);

}  // namespace upcycle
