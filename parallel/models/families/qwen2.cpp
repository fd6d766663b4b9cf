#include <nlohmann/json.hpp>

#include "parallel/models/family.h"
#include "parallel/models/qwen_window.h"

namespace upcycle::families {
namespace {

void read(const ConfigObject& file, ModelConfig& model) {
  model.attention_bias = "qkv";
  read_switched_window(file, model);
}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  if (model.attention_bias != "qkv") refuse("attention_bias", model.attention_bias, "qkv");
  write_no_window(model, file);
  file["layer_types"] = std::vector<std::string>(static_cast<std::size_t>(model.num_hidden_layers), "full_attention");
}

}  // namespace

// 2.5 is of this family too.
extern const Family qwen2{
    .name = "Qwen2",
    .model_type = "qwen2",
    .architecture = "Qwen2ForCausalLM",
    .rope_theta = 1e4,
    .required = {"num_key_value_heads"},  // transformers' default of 32 would be a guess at what the author meant
    .read = read,
    .expresses = {"attention_bias"},
    .write = write,
};

}  // namespace upcycle::families
