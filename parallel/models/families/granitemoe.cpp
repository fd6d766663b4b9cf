#include <nlohmann/json.hpp>

#include "parallel/models/granite_keys.h"
#include "parallel/models/local_experts.h"

// All experts of a layer are one tensor, (E, 2F, H) of gate and up and (E, H, F) of down. Tensor names and keys as
// transformers and vLLM (vllm/model_executor/models/granitemoe.py) read them; vLLM knows no biases and takes head sizes
// of hidden_size / num_attention_heads only.
namespace upcycle::families {
namespace {

void read(const ConfigObject& file, ModelConfig& model) {
  read_granite_keys(file, model);
  read_local_experts(file, model);
}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  if (!model.is_moe()) refuse("num_local_experts", "0", "at least 1");
  write_granite_keys(model, refuse, file);
  write_local_experts(model, file);
  file["output_router_logits"] = false;
}

const char* pattern(ParamRole role) {
  return role == ParamRole::Router ? "model.layers.{}.block_sparse_moe.router.layer.weight" : canonical_pattern(role);
}

}  // namespace

extern const Family granitemoe{
    .name = "Granite-MoE",
    .model_type = "granitemoe",
    .architecture = "GraniteMoeForCausalLM",
    .rope_theta = 1e4,
    .required = {"num_local_experts", "num_experts_per_tok"},
    .read = read,
    .expresses = {"num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "router_aux_loss_coef",
                  "embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling",
                  "attention_bias"},
    .write = write,
    .pattern = pattern,
    .stacks = {{"model.layers.{}.block_sparse_moe.input_linear.weight", {ParamRole::ExpertGate, ParamRole::ExpertUp}},
               {"model.layers.{}.block_sparse_moe.output_linear.weight", {ParamRole::ExpertDown}}},
};

}  // namespace upcycle::families
