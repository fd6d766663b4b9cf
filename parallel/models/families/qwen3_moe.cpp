#include <nlohmann/json.hpp>

#include "parallel/models/family.h"
#include "parallel/models/qwen_window.h"
#include "parallel/models/sparse_layers.h"

// Tensor names and keys as transformers and vLLM (vllm/model_executor/models/qwen3_moe.py) read them.
namespace upcycle::families {
namespace {

void read(const ConfigObject& file, ModelConfig& model) {
  read_routing(file, model, 0.001);
  read_sparse_layers(file, model);
  model.attention_bias = file.boolean("attention_bias", false) ? "all" : "none";
  model.qk_norm = "head";
  read_switched_window(file, model);
}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  write_routing(model, refuse, file);
  write_sparse_layers(model, file);
  if (model.qk_norm != "head") refuse("qk_norm", model.qk_norm, "head");
  if (model.attention_bias == "qkv") refuse("attention_bias", "qkv", "none or all");
  file["attention_bias"] = model.attention_bias == "all";
  write_no_window(model, file);
}

}  // namespace

extern const Family qwen3_moe{
    .name = "Qwen3-MoE",
    .model_type = "qwen3_moe",
    .architecture = "Qwen3MoeForCausalLM",
    .rope_theta = 1e4,
    // transformers' defaults would be guesses at what the author meant.
    .required = {"num_key_value_heads", "num_experts_per_tok", "moe_intermediate_size"},
    .read = read,
    .expresses = {"num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "router_aux_loss_coef",
                  "router_softmax", "moe_every_n_layers", "mlp_only_layers", "qk_norm", "attention_bias"},
    .write = write,
    .pattern = experts_in_mlp,
};

}  // namespace upcycle::families
