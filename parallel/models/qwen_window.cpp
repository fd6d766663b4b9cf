#include "parallel/models/qwen_window.h"

#include <nlohmann/json.hpp>

namespace upcycle {

void read_switched_window(const ConfigObject& file, ModelConfig& model) {
  if (!file.boolean("use_sliding_window", false)) model.sliding_window = 0;
}

void write_no_window(const ModelConfig& model, nlohmann::ordered_json& file) {
  file["use_sliding_window"] = false;
  file["sliding_window"] = nullptr;
  file["max_window_layers"] = model.num_hidden_layers;
}

}  // namespace upcycle
