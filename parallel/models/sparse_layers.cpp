#include "parallel/models/sparse_layers.h"

#include <nlohmann/json.hpp>

namespace upcycle {

const char* experts_in_mlp(ParamRole role) {
  switch (role) {
    case ParamRole::Router:
      return "model.layers.{}.mlp.gate.weight";
    case ParamRole::SharedGate:
      return "model.layers.{}.mlp.shared_expert.gate_proj.weight";
    case ParamRole::SharedUp:
      return "model.layers.{}.mlp.shared_expert.up_proj.weight";
    case ParamRole::SharedDown:
      return "model.layers.{}.mlp.shared_expert.down_proj.weight";
    case ParamRole::SharedExpertGate:
      return "model.layers.{}.mlp.shared_expert_gate.weight";
    case ParamRole::ExpertGate:
      return "model.layers.{}.mlp.experts.{}.gate_proj.weight";
    case ParamRole::ExpertUp:
      return "model.layers.{}.mlp.experts.{}.up_proj.weight";
    case ParamRole::ExpertDown:
      return "model.layers.{}.mlp.experts.{}.down_proj.weight";
    default:
      return canonical_pattern(role);
  }
}

void read_routing(const ConfigObject& file, ModelConfig& model, double absent_aux_loss_coef) {
  const char* const experts = file.has("num_experts") ? "num_experts" : "num_local_experts";
  if (!file.has(experts)) file.require({"num_experts"});
  model.num_local_experts = file.integer(experts);
  if (model.num_local_experts < 1) file.refuse(experts, "at least 1");
  model.num_experts_per_tok = file.integer("num_experts_per_tok");
  model.router_softmax = file.boolean("norm_topk_prob", false) ? "topk_then_softmax" : "softmax_then_topk";
  model.router_aux_loss_coef = file.number("router_aux_loss_coef", absent_aux_loss_coef);
}

void write_routing(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  if (!model.is_moe()) refuse("num_local_experts", "0", "at least 1");
  file["num_experts"] = model.num_local_experts;
  file["num_experts_per_tok"] = model.num_experts_per_tok;
  file["norm_topk_prob"] = model.router_softmax == "topk_then_softmax";
  file["router_aux_loss_coef"] = model.router_aux_loss_coef;
  file["output_router_logits"] = false;
}

void read_sparse_layers(const ConfigObject& file, ModelConfig& model) {
  model.moe_intermediate_size = file.integer("moe_intermediate_size");
  if (model.moe_intermediate_size < 1) file.refuse("moe_intermediate_size", "at least 1");
  model.moe_every_n_layers = file.integer("decoder_sparse_step", 1);
  model.mlp_only_layers = file.integers("mlp_only_layers");
}

void write_sparse_layers(const ModelConfig& model, nlohmann::ordered_json& file) {
  file["moe_intermediate_size"] = model.expert_size();
  file["decoder_sparse_step"] = model.moe_every_n_layers;
  file["mlp_only_layers"] = model.mlp_only_layers;
}

}  // namespace upcycle
