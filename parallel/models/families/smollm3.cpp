#include <algorithm>
#include <nlohmann/json.hpp>

#include "parallel/models/family.h"

namespace upcycle::families {
namespace {

using nlohmann::json;

// 1: the layer has RoPE.
json layers_with_rope(const ModelConfig& model) {
  json layers = json::array();
  for (std::int64_t l = 0; l < model.num_hidden_layers; ++l) layers.push_back(model.has_rope(l) ? 1 : 0);
  return layers;
}

// The list counts, where there is one: if it has another period than the interval, its first 0 tells it.
void read_layers(const ConfigObject& file, ModelConfig& model) {
  const char *interval = "no_rope_layer_interval", *list = "no_rope_layers";
  model.no_rope_every = file.integer(interval, 4);
  if (model.no_rope_every == 0) file.refuse(interval, "at least 1");
  const json* layers = file.find(list);
  if (layers == nullptr) return;
  if (!layers->is_array() || static_cast<std::int64_t>(layers->size()) < model.num_hidden_layers)
    file.refuse(list, "a number for each layer");
  const auto agrees = [&] {
    const json expected = layers_with_rope(model);
    return std::equal(expected.begin(), expected.end(), layers->begin());
  };
  if (agrees()) return;
  const auto first = std::find(layers->begin(), layers->begin() + model.num_hidden_layers, 0);
  model.no_rope_every = first == layers->begin() + model.num_hidden_layers ? 0 : first - layers->begin() + 1;
  if (!agrees()) file.refuse(list, "0 for every n-th layer and 1 for the others");
}

void read(const ConfigObject& file, ModelConfig& model) {
  model.attention_bias = file.boolean("attention_bias", false) ? "all" : "none";
  model.mlp_bias = file.boolean("mlp_bias", false);
  model.tie_word_embeddings = file.boolean("tie_word_embeddings", true);
  read_layers(file, model);
  if (!file.boolean("use_sliding_window", false)) model.sliding_window = 0;
  const bool some = !file.has("layer_types") && model.no_rope_every != 1;  // only layers without RoPE have the window
  if (some && model.sliding_window > 0 && model.sliding_window < model.max_position_embeddings)
    file.refuse("use_sliding_window", "false: a window in some of the layers is not supported");
}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  if (model.head_dim == 0) file.erase("head_dim");
  file["no_rope_layers"] = layers_with_rope(model);
  file["no_rope_layer_interval"] = model.no_rope_every > 0 ? model.no_rope_every : model.num_hidden_layers + 1;
  file["use_sliding_window"] = model.sliding_window > 0;
  file["sliding_window"] = model.sliding_window > 0 ? nlohmann::ordered_json(model.sliding_window) : nullptr;
  file["layer_types"] = std::vector<std::string>(static_cast<std::size_t>(model.num_hidden_layers),
                                                 model.sliding_window > 0 ? "sliding_attention" : "full_attention");
  if (model.attention_bias == "qkv") refuse("attention_bias", "qkv", "none or all");
  file["attention_bias"] = model.attention_bias == "all";
  file["mlp_bias"] = model.mlp_bias;
  file["pad_token_id"] = nullptr;
}

}  // namespace

extern const Family smollm3{
    .name = "SmolLM3",
    .model_type = "smollm3",
    .architecture = "SmolLM3ForCausalLM",
    .rope_theta = 2e6,
    .required = {"num_key_value_heads"},  // transformers' default of 4 would be a guess at what the author meant
    .read = read,
    .expresses = {"no_rope_every", "sliding_window", "attention_bias", "mlp_bias"},
    .write = write,
};

}  // namespace upcycle::families
