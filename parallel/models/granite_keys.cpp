#include "parallel/models/granite_keys.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace upcycle {
namespace {
constexpr const char* attention = "attention_multiplier";
}

void read_granite_keys(const ConfigObject& file, ModelConfig& model) {
  model.attention_bias = file.boolean("attention_bias", false) ? "all" : "none";
  model.embedding_multiplier = file.number("embedding_multiplier", 1);
  model.attention_multiplier = file.number(attention, 1);
  model.residual_multiplier = file.number("residual_multiplier", 1);
  model.logits_scaling = file.number("logits_scaling", 1);
  if (!(model.attention_multiplier > 0)) file.refuse(attention, "a number above 0");
}

void write_granite_keys(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  const double scale = model.attention_multiplier;
  if (!(model.embedding_multiplier > 0)) refuse("embedding_multiplier", "0", "a number above 0");
  file["embedding_multiplier"] = model.embedding_multiplier;
  file[attention] = scale > 0 ? scale : 1 / std::sqrt(static_cast<double>(model.head_size()));
  file["residual_multiplier"] = model.residual_multiplier;
  file["logits_scaling"] = model.logits_scaling;
  if (model.head_dim == 0) file.erase("head_dim");
  if (model.attention_bias == "qkv") refuse("attention_bias", "qkv", "none or all");
  file["attention_bias"] = model.attention_bias == "all";
}

}  // namespace upcycle
