#include "parallel/models/rope_config.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"

namespace upcycle {
namespace {

using nlohmann::json;

struct Rope {
  std::optional<double> theta, partial;
  RopeScaling scaling;
};

std::vector<double> numbers(const ConfigObject& object, const char* key) {
  const json* value = object.find(key);
  if (value == nullptr || !value->is_array()) object.refuse(key, "a list of numbers");
  std::vector<double> list;
  for (const json& x : *value) {
    if (!x.is_number()) object.refuse(key, "a list of numbers");
    list.push_back(x.get<double>());
  }
  return list;
}

// Some models have the key beside the object; both must agree.
std::int64_t original_positions(const ConfigObject& file, const ConfigObject& object) {
  const char* key = "original_max_position_embeddings";
  const std::int64_t absent = file.integer(key, file.integer("max_position_embeddings"));
  const std::int64_t original = object.integer(key, absent);
  if (file.has(key) && original != absent) object.refuse(key, std::to_string(absent) + ", as beside it");
  if (original < 1) object.refuse(key, "at least 1");
  return original;
}

RopeScaling read_scaling(const ConfigObject& file, const ConfigObject& object) {
  const char* type_key = object.has("rope_type") ? "rope_type" : "type";  // the older word
  RopeScaling s;
  s.rope_type = object.text(type_key, "default");
  if (s.rope_type == "default") return {};
  if (s.rope_type == "su") s.rope_type = "longrope";  // Phi-3's older word
  if (s.rope_type == "linear" || s.rope_type == "dynamic") {
    s.factor = object.number("factor");
  } else if (s.rope_type == "llama3") {
    s.factor = object.number("factor");
    s.low_freq_factor = object.number("low_freq_factor");
    s.high_freq_factor = object.number("high_freq_factor");
    s.original_max_position_embeddings = original_positions(file, object);
  } else if (s.rope_type == "yarn") {
    s.factor = object.number("factor");
    s.original_max_position_embeddings = original_positions(file, object);
    s.beta_fast = object.number("beta_fast", s.beta_fast);
    s.beta_slow = object.number("beta_slow", s.beta_slow);
    s.mscale = object.number("mscale", 0);
    s.mscale_all_dim = object.number("mscale_all_dim", 0);
    s.truncate = object.boolean("truncate", true);
  } else if (s.rope_type == "longrope") {
    s.factor = object.number("factor", 1);
    s.original_max_position_embeddings = original_positions(file, object);
    s.short_factor = numbers(object, "short_factor");
    s.long_factor = numbers(object, "long_factor");
    if (object.has("factor") && s.factor == 1) s.attention_factor = 1;  // an absent one is that of the two lengths
  } else {
    object.refuse(type_key, "'default', 'linear', 'dynamic', 'yarn', 'longrope' or 'llama3'");
  }
  if ((s.rope_type == "yarn" || s.rope_type == "longrope") && object.has("attention_factor")) {
    s.attention_factor = object.number("attention_factor");
    if (!(s.attention_factor > 0)) object.refuse("attention_factor", "a number above 0");
  }
  return s;
}

std::optional<double> optional_number(const ConfigObject& object, const char* key) {
  return object.has(key) ? std::optional(object.number(key)) : std::nullopt;
}

std::optional<Rope> read_form(const ConfigObject& file, const char* key) {
  const json* value = file.find(key);
  if (value == nullptr) return {};
  if (!value->is_object()) file.refuse(key, "an object");
  const ConfigObject object{*value, file.where + ": " + key};
  return Rope{optional_number(object, "rope_theta"), optional_number(object, "partial_rotary_factor"),
              read_scaling(file, object)};
}

void agree(const ConfigObject& file, const char* key, std::optional<double>& value,
           const std::optional<double>& other) {
  if (value && other && *value != *other)
    input_error("{}: {}: found both {} and {}, expected one value; remove the wrong one", file.where, key, *value,
                *other);
  if (other) value = other;
}

}  // namespace

void read_rope(const ConfigObject& file, double default_theta, ModelConfig& model) {
  const std::optional<Rope> old_form = read_form(file, "rope_scaling"), new_form = read_form(file, "rope_parameters");
  if (old_form && new_form && old_form->scaling != new_form->scaling)
    file.refuse("rope_scaling", "the same as rope_parameters; remove the wrong one");
  std::optional<double> theta = optional_number(file, "rope_theta"),
                        partial = optional_number(file, "partial_rotary_factor");
  for (const auto& form : {old_form, new_form}) {
    if (!form) continue;
    if (!form->scaling.rope_type.empty()) model.rope_scaling = form->scaling;
    agree(file, "rope_theta", theta, form->theta);
    agree(file, "partial_rotary_factor", partial, form->partial);
  }
  model.rope_theta = theta.value_or(default_theta);
  model.partial_rotary_factor = partial.value_or(1);
}

void write_rope(const ModelConfig& model, nlohmann::ordered_json& file) {
  const RopeScaling& s = model.rope_scaling;
  const RopeScaling defaults;
  nlohmann::ordered_json rope;
  const auto unless = [&](const char* key, auto value, auto absent) {
    if (value != absent) rope[key] = value;
  };
  rope["rope_type"] = s.rope_type.empty() ? "default" : s.rope_type;
  if (!s.rope_type.empty() && (s.rope_type != "longrope" || s.factor != 1)) rope["factor"] = s.factor;
  if (s.rope_type == "llama3") {
    rope["low_freq_factor"] = s.low_freq_factor;
    rope["high_freq_factor"] = s.high_freq_factor;
  }
  if (s.rope_type == "yarn") {
    unless("beta_fast", s.beta_fast, defaults.beta_fast);
    unless("beta_slow", s.beta_slow, defaults.beta_slow);
    unless("mscale", s.mscale, 0.0);
    unless("mscale_all_dim", s.mscale_all_dim, 0.0);
    unless("truncate", s.truncate, true);
  }
  if (s.rope_type == "longrope") {
    rope["short_factor"] = s.short_factor;
    rope["long_factor"] = s.long_factor;
  }
  if (s.rope_type == "yarn" || s.rope_type == "longrope") unless("attention_factor", s.attention_factor, 0.0);
  const bool has_original = s.rope_type == "llama3" || s.rope_type == "yarn" || s.rope_type == "longrope";
  // transformers 4 takes the quotient of two lengths for yarn's factor, unless the original one is absent.
  if (has_original && (s.rope_type == "llama3" || s.original_max_position_embeddings != model.max_position_embeddings))
    rope["original_max_position_embeddings"] = s.original_max_position_embeddings;
  file["rope_theta"] = model.rope_theta;
  if (model.partial_rotary_factor != 1) file["partial_rotary_factor"] = model.partial_rotary_factor;
  file["rope_scaling"] = s.rope_type.empty() ? nlohmann::ordered_json() : rope;
  if (has_original) rope["original_max_position_embeddings"] = s.original_max_position_embeddings;
  rope["rope_theta"] = model.rope_theta;
  if (model.partial_rotary_factor != 1) rope["partial_rotary_factor"] = model.partial_rotary_factor;
  file["rope_parameters"] = rope;
}

}  // namespace upcycle
