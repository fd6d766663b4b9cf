#include <nlohmann/json.hpp>

#include "parallel/models/family.h"
#include "parallel/models/qwen_window.h"

namespace upcycle::families {
namespace {

void read(const ConfigObject& file, ModelConfig& model) {
  model.qk_norm = "head";
  model.attention_bias = file.boolean("attention_bias", false) ? "all" : "none";
  read_switched_window(file, model);
}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  if (model.qk_norm != "head") refuse("qk_norm", model.qk_norm, "head");
  if (model.attention_bias == "qkv") refuse("attention_bias", "qkv", "none or all");
  file["attention_bias"] = model.attention_bias == "all";
  write_no_window(model, file);
  file["layer_types"] = std::vector<std::string>(static_cast<std::size_t>(model.num_hidden_layers), "full_attention");
}

}  // namespace

extern const Family qwen3{
    .name = "Qwen3",
    .model_type = "qwen3",
    .architecture = "Qwen3ForCausalLM",
    .rope_theta = 1e4,
    .required = {"num_key_value_heads", "head_dim"},  // transformers has defaults that do not follow the other sizes
    .read = read,
    .expresses = {"qk_norm", "attention_bias"},
    .write = write,
};

}  // namespace upcycle::families
