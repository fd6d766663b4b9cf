#include <nlohmann/json.hpp>

#include "parallel/models/family.h"

namespace upcycle::families {
namespace {

void read(const ConfigObject& file, ModelConfig& model) {
  model.attention_bias = file.boolean("attention_bias", false) ? "all" : "none";
  model.mlp_bias = file.boolean("mlp_bias", false);
}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  if (model.attention_bias == "qkv") refuse("attention_bias", "qkv", "none or all");
  file["attention_bias"] = model.attention_bias == "all";
  file["mlp_bias"] = model.mlp_bias;
}

}  // namespace

extern const Family llama{
    .name = "Llama",
    .model_type = "llama",
    .architecture = "LlamaForCausalLM",
    .rope_theta = 1e4,
    .read = read,
    .expresses = {"attention_bias", "mlp_bias"},
    .write = write,
};

}  // namespace upcycle::families
