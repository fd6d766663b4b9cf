#include <nlohmann/json.hpp>

#include "parallel/models/family.h"
#include "parallel/models/qwen_window.h"
#include "parallel/models/sparse_layers.h"

// Every layer has biases of queries, keys and values, and every shared expert a gate. Of the biases that the model does
// not have zeros are written. A gate that halves its expert is written as weights of 2^-60, whose sigmoid is 1/2 in
// every type, beside twice the down projection: with zeros llama.cpp, which computes the sigmoid of z as silu(z) / z,
// would give no numbers.
//
// Tensor names and keys as transformers and vLLM (vllm/model_executor/models/qwen2_moe.py) read them. vLLM takes head
// sizes of hidden_size / num_attention_heads only; where the shared expert's width is 0 it knows a gate and no expert.
// llama.cpp knows neither dense layers nor a width of 0, and takes the weights of experts as if norm_topk_prob was
// false.
namespace upcycle::families {
namespace {

void read(const ConfigObject& file, ModelConfig& model) {
  read_routing(file, model, 0.001);
  read_sparse_layers(file, model);
  model.attention_bias = file.boolean("qkv_bias", true) ? "qkv" : "none";
  read_switched_window(file, model);
  if (model.sliding_window > 0)
    file.refuse("use_sliding_window", "false; windows in some of the layers are not supported");
  model.shared_expert_size = file.integer("shared_expert_intermediate_size");
  model.shared_expert = model.shared_expert_gate = model.shared_expert_size > 0;
}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  write_routing(model, refuse, file);
  write_sparse_layers(model, file);
  if (model.attention_bias == "all") refuse("attention_bias", "all", "none or qkv");
  file["shared_expert_intermediate_size"] = model.shared_expert ? model.shared_size() : 0;
  file["qkv_bias"] = true;
  write_no_window(model, file);
}

std::vector<ConstantTensor> constants(const ModelConfig& model) {
  std::vector<ConstantTensor> all;
  const std::int64_t queries = model.num_attention_heads * model.head_size(),
                     keys = model.kv_heads() * model.head_size();
  for (std::int64_t l = 0; l < model.num_hidden_layers; ++l) {
    if (model.attention_bias == "none") {
      all.push_back({canonical_name(ParamRole::QueryBias, l), {queries}});
      all.push_back({canonical_name(ParamRole::KeyBias, l), {keys}});
      all.push_back({canonical_name(ParamRole::ValueBias, l), {keys}});
    }
    if (model.is_moe_layer(l) && !model.shared_expert_gate)
      all.push_back({name_of(experts_in_mlp(ParamRole::SharedExpertGate), l, -1),
                     {1, model.hidden_size},
                     model.shared_expert ? 0x1p-60f : 0.0f});
  }
  return all;
}

float factor(const ModelConfig& model, ParamRole role) {
  return role == ParamRole::SharedDown && !model.shared_expert_gate ? 2.0f : 1.0f;
}

}  // namespace

extern const Family qwen2_moe{
    .name = "Qwen2-MoE",
    .model_type = "qwen2_moe",
    .architecture = "Qwen2MoeForCausalLM",
    .rope_theta = 1e4,
    // transformers' defaults would be guesses at what the author meant.
    .required = {"num_key_value_heads", "num_experts_per_tok", "moe_intermediate_size",
                 "shared_expert_intermediate_size"},
    .read = read,
    .expresses = {"num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "router_aux_loss_coef",
                  "router_softmax", "moe_every_n_layers", "mlp_only_layers", "shared_expert", "shared_expert_size",
                  "shared_expert_gate", "attention_bias"},
    .write = write,
    .pattern = experts_in_mlp,
    .constants = constants,
    .factor = factor,
};

}  // namespace upcycle::families
