#include "parallel/models/local_experts.h"

#include <nlohmann/json.hpp>

namespace upcycle {

void read_local_experts(const ConfigObject& file, ModelConfig& model) {
  model.num_local_experts = file.integer("num_local_experts");
  model.num_experts_per_tok = file.integer("num_experts_per_tok");
  model.router_aux_loss_coef = file.number("router_aux_loss_coef", 0.001);
  if (model.num_local_experts < 1) file.refuse("num_local_experts", "at least 1");
}

void write_local_experts(const ModelConfig& model, nlohmann::ordered_json& file) {
  file["intermediate_size"] = model.expert_size();
  file["num_local_experts"] = model.num_local_experts;
  file["num_experts_per_tok"] = model.num_experts_per_tok;
  file["router_aux_loss_coef"] = model.router_aux_loss_coef;
}

}  // namespace upcycle
