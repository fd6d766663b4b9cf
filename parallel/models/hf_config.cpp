#include "parallel/models/hf_config.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/config/check.h"
#include "core/config/fields.h"
#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/suggest.h"
#include "parallel/models/family.h"
#include "parallel/models/original_config.h"
#include "parallel/models/rope_config.h"
#include "parallel/models/weight_type.h"

namespace upcycle {
namespace {

using nlohmann::json;

// What every family has words for; and what concerns only training, which no family says.
bool said_by_all(const std::string& key) {
  constexpr std::string_view keys[] = {"hidden_size",
                                       "intermediate_size",
                                       "num_hidden_layers",
                                       "num_attention_heads",
                                       "num_key_value_heads",
                                       "head_dim",
                                       "vocab_size",
                                       "max_position_embeddings",
                                       "rope_theta",
                                       "rms_norm_eps",
                                       "initializer_range",
                                       "tie_word_embeddings",
                                       "bos_token_id",
                                       "eos_token_id",
                                       "router_z_loss_coef",
                                       "router_aux_loss_scope",
                                       "router_bias_update_rate"};
  return key.starts_with("rope_scaling.") || std::find(std::begin(keys), std::end(keys), key) != std::end(keys);
}

bool has_word(const Family& family, const std::string& key) {
  return said_by_all(key) || std::find(family.expresses.begin(), family.expresses.end(), key) != family.expresses.end();
}

// Models that are asked for by the name of a family that is read, and that compute something else.
std::string what_it_would_need(const std::string& model_type) {
  if (model_type == "gemma2")
    return "; Gemma 2 has soft caps on scores and logits, windows in every second layer and four norms in each, which "
           "are not computed here";
  if (model_type.starts_with("gemma3"))
    return "; Gemma 3 has windows in most layers, with a RoPE of their own, norms of queries and keys with an offset, "
           "and four norms in each layer, which are not computed here";
  return "";
}

// Refuses what changes the model's function and is not computed here, or means something else in transformers.
void refuse_unsupported(const ConfigObject& file, const Family& family, const ModelConfig& model) {
  if (!has_word(family, "hidden_act") && file.text("hidden_act", "silu") != "silu")
    file.refuse("hidden_act", fmt::format("'silu'; {} models with other activations are not supported", family.name));
  for (const char* key : {"num_key_value_heads", "head_dim"})
    if (file.find(key) != nullptr && file.integer(key) == 0) file.refuse(key, "at least 1, or null");
  if (file.boolean("attention_bias", false) && model.attention_bias == "none")
    file.refuse("attention_bias", fmt::format("false; {} models have none", family.name));
  if (file.boolean("mlp_bias", false) && !model.mlp_bias)
    file.refuse("mlp_bias", fmt::format("false; {} models have none", family.name));
  for (const char* key : {"attention_dropout", "router_jitter_noise"})
    if (file.number(key, 0) != 0) file.refuse(key, "0; it is not supported, set it to 0 to train without");
  if (file.find("quantization_config") != nullptr)
    file.refuse("quantization_config", "none; take the unquantized model");
}

// A window is one of all layers or of none.
void read_window(const ConfigObject& file, const Family& family, ModelConfig& model) {
  if (!file.has("sliding_window") || !file.boolean("use_sliding_window", true)) return;
  const std::int64_t window = file.integer("sliding_window");
  if (window == 0) file.refuse("sliding_window", "at least 1, or null");
  if (const json* types = file.find("layer_types"); types != nullptr && types->is_array()) {
    const auto windowed = std::count(types->begin(), types->end(), "sliding_attention");
    if (windowed == 0) return;
    if (windowed < static_cast<std::ptrdiff_t>(types->size()) && window < model.max_position_embeddings)
      file.refuse("layer_types",
                  "one type of attention in all layers, or a sliding_window of at least "
                  "max_position_embeddings");
  }
  if (window < model.max_position_embeddings || has_word(family, "sliding_window")) model.sliding_window = window;
}

void refuse_unsaid(const Family& family, const ModelConfig& model, const Refuse& refuse) {
  Config config;
  config.model = model;
  constexpr std::string_view section = "model.";
  for (const Field& f : fields()) {
    if (!f.key.starts_with(section)) continue;
    const std::string key = f.key.substr(section.size());
    if (f.of_experts && !model.is_moe()) continue;  // has no meaning
    if (has_word(family, key)) continue;
    const std::string found = value_text(config, f), expected = value_text(Config{}, f);
    if (found != expected) refuse(key.c_str(), found, expected);
  }
}

nlohmann::ordered_json config_json(const Family& family, const ModelConfig& model, StoredType type,
                                   const Refuse& refuse) {
  refuse_unsaid(family, model, refuse);
  const auto token = [](std::int64_t id) { return id < 0 ? json() : json(id); };
  nlohmann::ordered_json file;
  file["architectures"] = {family.architecture};
  file["model_type"] = family.model_type;
  file["hidden_size"] = model.hidden_size;
  file["intermediate_size"] = model.intermediate_size;
  file["num_hidden_layers"] = model.num_hidden_layers;
  file["num_attention_heads"] = model.num_attention_heads;
  file["num_key_value_heads"] = model.kv_heads();
  file["head_dim"] = model.head_size();
  file["vocab_size"] = model.vocab_size;
  file["max_position_embeddings"] = model.max_position_embeddings;
  file["hidden_act"] = "silu";
  file["rms_norm_eps"] = model.rms_norm_eps;
  file["initializer_range"] = model.initializer_range;
  file["attention_dropout"] = 0.0;
  file["tie_word_embeddings"] = model.tie_word_embeddings;
  file["bos_token_id"] = token(model.bos_token_id);
  file["eos_token_id"] = token(model.eos_token_id);
  write_rope(model, file);
  family.write(model, refuse, file);
  file["torch_dtype"] = weight_type(type).config_name;
  file["use_cache"] = true;
  return file;
}

bool can_express(const Family& family, const ModelConfig& model) {
  struct Refused {};
  try {
    (void)config_json(family, model, StoredType::F32, [](auto&&...) { throw Refused{}; });
    return true;
  } catch (const Refused&) {
    return false;
  }
}

}  // namespace

HfConfig read_hf_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  return parse_hf_config(read_hf_config_text(path), path);
}

std::string read_hf_config_text(const std::string& path) {
  if (std::error_code none; std::filesystem::is_fifo(path, none))
    input_error("{}: found a pipe, expected a regular file", path);
  return read_config_file(path);
}

HfConfig parse_hf_config(const std::string& text, const std::string& source_name) {
  const json parsed = parse_strict_json(text, source_name);
  if (!parsed.is_object()) input_error("{}: found {}, expected an object", source_name, shown(parsed));
  const ConfigObject file{parsed, source_name};
  file.require({"model_type"});
  const std::string type = file.text("model_type", "");
  const Family* family = find_family(type);
  if (family == nullptr)
    file.refuse("model_type", family_types() + "; other models are not supported" + what_it_would_need(type));
  file.require({"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                "max_position_embeddings", "rms_norm_eps"});
  file.require(family->required);

  HfConfig result;
  result.family = family;
  ModelConfig& model = result.model;
  model.hidden_size = file.integer("hidden_size");
  model.intermediate_size = file.integer("intermediate_size");
  model.num_hidden_layers = file.integer("num_hidden_layers");
  model.num_attention_heads = file.integer("num_attention_heads");
  model.num_key_value_heads = file.integer("num_key_value_heads", model.num_attention_heads);
  model.head_dim = file.integer("head_dim", 0);
  model.vocab_size = file.integer("vocab_size");
  model.max_position_embeddings = file.integer("max_position_embeddings");
  model.rms_norm_eps = file.number("rms_norm_eps");
  model.initializer_range = file.number("initializer_range", 0.02);
  model.tie_word_embeddings = file.boolean("tie_word_embeddings", false);
  model.bos_token_id = file.token("bos_token_id");
  model.eos_token_id = file.token("eos_token_id");
  read_rope(file, family->rope_theta, model);
  read_window(file, *family, model);
  family->read(file, model);
  refuse_unsupported(file, *family, model);
  refuse_unsaid(*family, model, [&](const char* field, const std::string& found, const std::string& expected) {
    input_error("{}: {}: found {}, expected {}; other {} models are not supported", source_name, field, found, expected,
                family->name);
  });
  result.dtype = file.text("torch_dtype", file.text("dtype", ""));
  check_model(model, source_name);
  return result;
}

const Family& exported_family(const ModelConfig& model, const std::string& model_type, const OriginalConfig* original) {
  if (!model_type.empty()) {
    const Family* family = find_family(model_type);
    if (family == nullptr)
      input_error("export: model_type: found {}, expected {}", quote_text(model_type), family_types());
    return *family;
  }
  if (original != nullptr && can_express(*original->read.family, model)) return *original->read.family;
  const Family& preferred = *find_family(model.is_moe() ? "mixtral" : "llama");
  if (can_express(preferred, model)) return preferred;
  for (const Family* family : all_families())
    if (can_express(*family, model)) return *family;
  return preferred;
}

std::string write_hf_config(const ModelConfig& model, StoredType type, const std::string& where,
                            const std::string& model_type, const OriginalConfig* original) {
  check_model(model, where);
  const Family& family = exported_family(model, model_type, original);
  const Refuse refuse = [&](const char* field, const std::string& found, const std::string& expected) {
    input_error("{}: model.{}: found {}, expected {}: {} has no word for it, so the model cannot be exported", where,
                field, found, expected, family.name);
  };
  nlohmann::ordered_json file = config_json(family, model, type, refuse);
  if (original != nullptr) file = with_original_keys(*original, std::move(file));
  return file.dump(2) + "\n";
}

}  // namespace upcycle
