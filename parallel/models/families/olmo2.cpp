#include <nlohmann/json.hpp>

#include "parallel/models/family.h"

namespace upcycle::families {
namespace {

void read(const ConfigObject& file, ModelConfig& model) {
  model.qk_norm = "full";
  model.norm_placement = "post";
  model.attention_bias = file.boolean("attention_bias", false) ? "all" : "none";
}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  if (model.qk_norm != "full") refuse("qk_norm", model.qk_norm, "full");
  if (model.norm_placement != "post") refuse("norm_placement", model.norm_placement, "post");
  if (model.attention_bias == "qkv") refuse("attention_bias", "qkv", "none or all");
  file["attention_bias"] = model.attention_bias == "all";
  file["pad_token_id"] = nullptr;  // absent it would be 1, whose row of the embedding would not learn
}

const char* pattern(ParamRole role) {
  if (role == ParamRole::AttentionNorm) return "model.layers.{}.post_attention_layernorm.weight";
  if (role == ParamRole::MlpNorm) return "model.layers.{}.post_feedforward_layernorm.weight";
  return canonical_pattern(role);
}

}  // namespace

extern const Family olmo2{
    .name = "OLMo2",
    .model_type = "olmo2",
    .architecture = "Olmo2ForCausalLM",
    .rope_theta = 1e4,
    .read = read,
    .expresses = {"qk_norm", "norm_placement", "attention_bias"},
    .write = write,
    .pattern = pattern,
};

}  // namespace upcycle::families
