#pragma once
#include <nlohmann/json_fwd.hpp>

#include "core/config/config.h"
#include "parallel/models/config_object.h"

// The sliding window of Qwen's families: of some of the layers, and off where nothing switches it on.
namespace upcycle {

void read_switched_window(const ConfigObject& file, ModelConfig& model);
void write_no_window(const ModelConfig& model, nlohmann::ordered_json& file);

}  // namespace upcycle
