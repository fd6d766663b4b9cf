#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "parallel/models/family.h"

// Gemma 1: GELU by its formula with tanh, norms that multiply by 1 + weight, an embedding times sqrt(hidden_size).
//
// Two keys name the activation. The models came out with a hidden_act of 'gelu', but were trained with the form with
// tanh: transformers 5 takes it to mean that and reads no other key; earlier ones read hidden_activation, null meaning
// the same. Where they would differ the file is refused.
namespace upcycle::families {
namespace {

constexpr const char* tanh_form = "gelu_pytorch_tanh";

void read(const ConfigObject& file, ModelConfig& model) {
  if (const std::string act = file.text("hidden_act", tanh_form); act != "gelu" && act != tanh_form)
    file.refuse("hidden_act", "'gelu_pytorch_tanh' or 'gelu', which means the same in Gemma's files");
  if (file.text("hidden_activation", tanh_form) != tanh_form)
    file.refuse("hidden_activation",
                "'gelu_pytorch_tanh' or null; transformers 4 computes other values and transformers 5 does not");
  if (file.boolean("use_bidirectional_attention", false))
    file.refuse("use_bidirectional_attention", "false; attention is causal here");
  model.hidden_act = "gelu_tanh";
  model.norm_unit_offset = true;
  model.embedding_multiplier = 0;  // sqrt(H)
  model.attention_bias = file.boolean("attention_bias", false) ? "all" : "none";
  model.tie_word_embeddings = file.boolean("tie_word_embeddings", true);
}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  if (model.hidden_act != "gelu_tanh") refuse("hidden_act", model.hidden_act, "gelu_tanh");
  if (!model.norm_unit_offset) refuse("norm_unit_offset", "false", "true");
  if (model.embedding_multiplier != 0)
    refuse("embedding_multiplier", fmt::format("{}", model.embedding_multiplier), "0, for sqrt(hidden_size)");
  if (model.attention_bias == "qkv") refuse("attention_bias", "qkv", "none or all");
  file["hidden_act"] = file["hidden_activation"] = tanh_form;
  file["attention_bias"] = model.attention_bias == "all";
}

}  // namespace

extern const Family gemma{
    .name = "Gemma",
    .model_type = "gemma",
    .architecture = "GemmaForCausalLM",
    .rope_theta = 1e4,
    .required = {"num_key_value_heads", "head_dim"},  // transformers' defaults of 16 and 256 would be guesses
    .read = read,
    .expresses = {"hidden_act", "norm_unit_offset", "embedding_multiplier", "attention_bias"},
    .write = write,
};

}  // namespace upcycle::families
