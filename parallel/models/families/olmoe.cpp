#include <nlohmann/json.hpp>

#include "parallel/models/family.h"
#include "parallel/models/sparse_layers.h"

// Tensor names and keys as transformers and vLLM (vllm/model_executor/models/olmoe.py) read them.
namespace upcycle::families {
namespace {

void read(const ConfigObject& file, ModelConfig& model) {
  read_routing(file, model, 0.01);
  model.attention_bias = file.boolean("attention_bias", false) ? "all" : "none";
  model.qk_norm = "full";
  if (file.has("clip_qkv")) file.refuse("clip_qkv", "null; clipping queries, keys and values is not supported");
}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  write_routing(model, refuse, file);
  if (model.qk_norm != "full") refuse("qk_norm", model.qk_norm, "full");
  if (model.attention_bias == "qkv") refuse("attention_bias", "qkv", "none or all");
  if (model.head_size() * model.num_attention_heads != model.hidden_size)
    refuse("head_dim", std::to_string(model.head_size()), "hidden_size / num_attention_heads");
  file.erase("head_dim");  // it has none
  file["intermediate_size"] = model.expert_size();
  file["attention_bias"] = model.attention_bias == "all";
  file["clip_qkv"] = nullptr;
}

}  // namespace

extern const Family olmoe{
    .name = "OLMoE",
    .model_type = "olmoe",
    .architecture = "OlmoeForCausalLM",
    .rope_theta = 1e4,
    .required = {"num_experts_per_tok"},
    .read = read,
    .expresses = {"num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "router_aux_loss_coef",
                  "router_softmax", "qk_norm", "attention_bias"},
    .write = write,
    .pattern = experts_in_mlp,
};

}  // namespace upcycle::families
