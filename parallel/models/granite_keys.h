#pragma once
#include <nlohmann/json_fwd.hpp>

#include "parallel/models/family.h"

namespace upcycle {

// The multipliers that Granite's models share, dense or of experts, and biases of attention.
void read_granite_keys(const ConfigObject& file, ModelConfig& model);
void write_granite_keys(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file);

}  // namespace upcycle
