#pragma once
#include <nlohmann/json_fwd.hpp>

#include "core/config/config.h"
#include "parallel/models/config_object.h"

// RoPE in config.json. transformers 4 writes rope_theta, partial_rotary_factor and rope_scaling, 5 rope_parameters;
// where a file has both they must agree. Beyond that a file means what transformers 5 takes from it.
namespace upcycle {

// `default_theta`: what an absent rope_theta means. model.max_position_embeddings is already read.
void read_rope(const ConfigObject& file, double default_theta, ModelConfig& model);

// Both forms.
void write_rope(const ModelConfig& model, nlohmann::ordered_json& file);

}  // namespace upcycle
