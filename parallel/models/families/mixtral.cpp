#include <nlohmann/json.hpp>

#include "parallel/models/family.h"

namespace upcycle::families {
namespace {

void read(const ConfigObject& file, ModelConfig& model) {
  model.num_local_experts = file.integer("num_local_experts");
  model.num_experts_per_tok = file.integer("num_experts_per_tok");
  model.router_aux_loss_coef = file.number("router_aux_loss_coef", 0.001);
  if (model.num_local_experts < 1) file.refuse("num_local_experts", "at least 1");
}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  if (!model.is_moe()) refuse("num_local_experts", "0", "at least 1");
  file["intermediate_size"] = model.expert_size();
  file["num_local_experts"] = model.num_local_experts;
  file["num_experts_per_tok"] = model.num_experts_per_tok;
  file["router_aux_loss_coef"] = model.router_aux_loss_coef;
  file["router_jitter_noise"] = 0.0;
  file["output_router_logits"] = false;
  file["sliding_window"] = model.sliding_window > 0 ? nlohmann::ordered_json(model.sliding_window) : nullptr;
}

}  // namespace

extern const Family mixtral{
    .name = "Mixtral",
    .model_type = "mixtral",
    .architecture = "MixtralForCausalLM",
    .rope_theta = 1e6,
    // transformers' default of 8 would be a guess at what the author meant.
    .required = {"num_key_value_heads", "num_local_experts", "num_experts_per_tok"},
    .read = read,
    .expresses = {"num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "router_aux_loss_coef",
                  "sliding_window"},
    .write = write,
};

}  // namespace upcycle::families
