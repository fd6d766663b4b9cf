#include "parallel/models/hf_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/check.h"
#include "core/config/check.h"
#include "core/config/fields.h"
#include "core/config/strict_json.h"
#include "core/error.h"
#include "core/suggest.h"
#include "parallel/models/family.h"

namespace upcycle {
namespace {

using nlohmann::json;

// Refuses what changes the model's function and is not computed here, or means something else in transformers.
void refuse_unsupported(const ConfigObject& file, const Family& family, const ModelConfig& model) {
  if (file.text("hidden_act", "silu") != "silu")
    file.refuse("hidden_act", "'silu'; other activations are not supported");
  for (const char* key : {"num_key_value_heads", "head_dim"})
    if (file.find(key) != nullptr && file.integer(key) == 0) file.refuse(key, "at least 1, or null");
  if (file.boolean("attention_bias", false) && model.attention_bias == "none")
    file.refuse("attention_bias", fmt::format("false; {} models have none", family.name));
  if (file.boolean("mlp_bias", false) && !model.mlp_bias)
    file.refuse("mlp_bias", fmt::format("false; {} models have none", family.name));
  for (const char* key : {"attention_dropout", "router_jitter_noise"})
    if (file.number(key, 0) != 0) file.refuse(key, "0; it is not supported, set it to 0 to train without");
  if (file.number("partial_rotary_factor", 1) != 1)
    file.refuse("partial_rotary_factor", "1; rotating a part of each head is not supported");
  if (file.find("quantization_config") != nullptr)
    file.refuse("quantization_config", "none; take the unquantized model");
  if (file.boolean("use_sliding_window", true) && file.find("sliding_window") != nullptr &&
      file.integer("sliding_window") < model.max_position_embeddings)
    file.refuse("sliding_window",
                fmt::format("null, or at least max_position_embeddings ({}): windows are not supported",
                            model.max_position_embeddings));
}

struct Rope {
  std::optional<double> theta;
  RopeScaling scaling;
};

std::optional<Rope> read_rope(const ConfigObject& file, const char* key) {
  const json* value = file.find(key);
  if (value == nullptr) return {};
  if (!value->is_object()) file.refuse(key, "an object");
  const ConfigObject object{*value, file.where + ": " + key};
  Rope rope;
  if (object.find("rope_theta") != nullptr) rope.theta = object.number("rope_theta");
  if (object.number("partial_rotary_factor", 1) != 1)
    object.refuse("partial_rotary_factor", "1; rotating a part of each head is not supported");
  const char* type_key = object.find("rope_type") != nullptr ? "rope_type" : "type";  // the older word
  const std::string type = object.text(type_key, "default");
  if (type == "default") return rope;
  if (type != "llama3") object.refuse(type_key, "'default' or 'llama3'; other scalings are not supported");
  rope.scaling = {type, object.number("factor"), object.number("low_freq_factor"), object.number("high_freq_factor"),
                  object.integer("original_max_position_embeddings")};
  return rope;
}

// transformers 4 writes rope_theta and rope_scaling, 5 writes rope_parameters; where a file has both they must agree.
void read_rope(const ConfigObject& file, double default_theta, ModelConfig& model) {
  const std::optional<Rope> old_form = read_rope(file, "rope_scaling"), new_form = read_rope(file, "rope_parameters");
  if (old_form && new_form && old_form->scaling != new_form->scaling)
    file.refuse("rope_scaling", "the same as rope_parameters; remove the wrong one");
  std::optional<double> theta;
  if (file.find("rope_theta") != nullptr) theta = file.number("rope_theta");
  for (const auto& form : {old_form, new_form}) {
    if (!form) continue;
    if (!form->scaling.rope_type.empty()) model.rope_scaling = form->scaling;
    if (form->theta && theta && *form->theta != *theta)
      input_error("{}: rope_theta: found both {} and {}, expected one value; remove the wrong one", file.where, *theta,
                  *form->theta);
    if (form->theta) theta = form->theta;
  }
  model.rope_theta = theta.value_or(default_theta);
}

// What every family has words for; and what concerns only training, which no family says.
const std::set<std::string, std::less<>> said_by_all{"hidden_size",
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
                                                     "rope_scaling.rope_type",
                                                     "rope_scaling.factor",
                                                     "rope_scaling.low_freq_factor",
                                                     "rope_scaling.high_freq_factor",
                                                     "rope_scaling.original_max_position_embeddings",
                                                     "tie_word_embeddings",
                                                     "bos_token_id",
                                                     "eos_token_id",
                                                     "router_z_loss_coef"};

void refuse_unsaid(const Family& family, const ModelConfig& model, const Refuse& refuse) {
  Config config;
  config.model = model;
  constexpr std::string_view section = "model.";
  for (const Field& f : fields()) {
    if (!f.key.starts_with(section)) continue;
    const std::string key = f.key.substr(section.size());
    if (f.of_experts && !model.is_moe()) continue;  // has no meaning
    if (said_by_all.count(key) != 0 ||
        std::find(family.expresses.begin(), family.expresses.end(), key) != family.expresses.end())
      continue;
    const std::string found = value_text(config, f), expected = value_text(Config{}, f);
    if (found != expected) refuse(key.c_str(), found, expected);
  }
}

nlohmann::ordered_json config_json(const Family& family, const ModelConfig& model, DType dtype, const Refuse& refuse) {
  refuse_unsaid(family, model, refuse);
  const auto token = [](std::int64_t id) { return id < 0 ? json() : json(id); };
  const RopeScaling& scaling = model.rope_scaling;
  nlohmann::ordered_json rope;
  rope["rope_type"] = scaling.rope_type.empty() ? "default" : scaling.rope_type;
  if (!scaling.rope_type.empty()) {
    rope["factor"] = scaling.factor;
    rope["low_freq_factor"] = scaling.low_freq_factor;
    rope["high_freq_factor"] = scaling.high_freq_factor;
    rope["original_max_position_embeddings"] = scaling.original_max_position_embeddings;
  }
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
  family.write(model, refuse, file);
  // Both forms: transformers 4 reads the first two keys, 5 the last.
  file["rope_theta"] = model.rope_theta;
  file["rope_scaling"] = scaling.rope_type.empty() ? nlohmann::ordered_json() : rope;
  rope["rope_theta"] = model.rope_theta;
  file["rope_parameters"] = rope;
  file["torch_dtype"] = dtype == DType::BF16 ? "bfloat16" : "float32";
  file["use_cache"] = true;
  return file;
}

bool can_express(const Family& family, const ModelConfig& model) {
  struct Refused {};
  try {
    (void)config_json(family, model, DType::F32, [](auto&&...) { throw Refused{}; });
    return true;
  } catch (const Refused&) {
    return false;
  }
}

}  // namespace

HfConfig read_hf_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  return parse_hf_config(read_config_file(path), path);
}

HfConfig parse_hf_config(const std::string& text, const std::string& source_name) {
  const json parsed = parse_strict_json(text, source_name);
  if (!parsed.is_object()) input_error("{}: found {}, expected an object", source_name, shown(parsed));
  const ConfigObject file{parsed, source_name};
  file.require({"model_type"});
  const Family* family = find_family(file.text("model_type", ""));
  if (family == nullptr) file.refuse("model_type", family_types() + "; other models are not supported");
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
  family->read(file, model);
  refuse_unsupported(file, *family, model);
  result.dtype = file.text("torch_dtype", file.text("dtype", ""));
  check_model(model, source_name);
  return result;
}

const Family& exported_family(const ModelConfig& model, const std::string& model_type) {
  if (!model_type.empty()) {
    const Family* family = find_family(model_type);
    if (family == nullptr)
      input_error("export: model_type: found {}, expected {}", quote_text(model_type), family_types());
    return *family;
  }
  const Family& preferred = *find_family(model.is_moe() ? "mixtral" : "llama");
  if (can_express(preferred, model)) return preferred;
  for (const Family* family : all_families())
    if (can_express(*family, model)) return *family;
  return preferred;
}

std::string write_hf_config(const ModelConfig& model, DType dtype, const std::string& where,
                            const std::string& model_type) {
  UPCYCLE_CHECK(dtype == DType::F32 || dtype == DType::BF16, "{}: a model of {}", where, name_of(dtype));
  check_model(model, where);
  const Family& family = exported_family(model, model_type);
  const Refuse refuse = [&](const char* field, const std::string& found, const std::string& expected) {
    input_error("{}: model.{}: found {}, expected {}: {} has no word for it, so the model cannot be exported", where,
                field, found, expected, family.name);
  };
  return config_json(family, model, dtype, refuse).dump(2) + "\n";
}

}  // namespace upcycle
