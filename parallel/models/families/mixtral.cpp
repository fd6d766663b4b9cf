#include <nlohmann/json.hpp>

#include "parallel/models/local_experts.h"

namespace upcycle::families {
namespace {

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  if (!model.is_moe()) refuse("num_local_experts", "0", "at least 1");
  write_local_experts(model, file);
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
    .read = read_local_experts,
    .expresses = {"num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "router_aux_loss_coef",
                  "sliding_window"},
    .write = write,
};

}  // namespace upcycle::families
