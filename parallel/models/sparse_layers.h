#pragma once
#include <nlohmann/json_fwd.hpp>

#include "parallel/models/family.h"

// What Qwen2-MoE, Qwen3-MoE and OLMoE share: routing's keys, layers without experts, and experts as MLPs below `mlp`.
namespace upcycle {

// Names of tensors, as canonical_pattern has them.
const char* experts_in_mlp(ParamRole role);

// num_experts (transformers 5: or num_local_experts), num_experts_per_tok, norm_topk_prob (whether the chosen weights
// are renormalised: the same as a softmax over the chosen logits), router_aux_loss_coef.
void read_routing(const ConfigObject& file, ModelConfig& model, double absent_aux_loss_coef);
void write_routing(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file);

// moe_intermediate_size, decoder_sparse_step, mlp_only_layers.
void read_sparse_layers(const ConfigObject& file, ModelConfig& model);
void write_sparse_layers(const ModelConfig& model, nlohmann::ordered_json& file);

}  // namespace upcycle
