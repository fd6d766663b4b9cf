#include <nlohmann/json.hpp>

#include "parallel/models/family.h"

namespace upcycle::families {
namespace {

void read(const ConfigObject& file, ModelConfig& model) {
  if (!file.values.contains("sliding_window")) model.sliding_window = 4096;  // null: none
}

void write(const ModelConfig& model, const Refuse&, nlohmann::ordered_json& file) {
  file["sliding_window"] = model.sliding_window > 0 ? nlohmann::ordered_json(model.sliding_window) : nullptr;
}

}  // namespace

extern const Family mistral{
    .name = "Mistral",
    .model_type = "mistral",
    .architecture = "MistralForCausalLM",
    .rope_theta = 1e4,
    .required = {"num_key_value_heads"},  // transformers' default of 8 would be a guess at what the author meant
    .read = read,
    .expresses = {"sliding_window"},
    .write = write,
};

}  // namespace upcycle::families
