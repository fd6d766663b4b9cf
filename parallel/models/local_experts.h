#pragma once
#include <nlohmann/json_fwd.hpp>

#include "parallel/models/family.h"

namespace upcycle {

// What Mixtral and Granite-MoE share: num_local_experts, num_experts_per_tok, router_aux_loss_coef; and
// intermediate_size, which is the experts'.
void read_local_experts(const ConfigObject& file, ModelConfig& model);
void write_local_experts(const ModelConfig& model, nlohmann::ordered_json& file);

}  // namespace upcycle
