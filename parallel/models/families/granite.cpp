#include <nlohmann/json.hpp>

#include "parallel/models/granite_keys.h"

namespace upcycle::families {
namespace {

void read(const ConfigObject& file, ModelConfig& model) {
  read_granite_keys(file, model);
  model.mlp_bias = file.boolean("mlp_bias", false);
}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  write_granite_keys(model, refuse, file);
  file["mlp_bias"] = model.mlp_bias;
}

}  // namespace

extern const Family granite{
    .name = "Granite",
    .model_type = "granite",
    .architecture = "GraniteForCausalLM",
    .rope_theta = 1e4,
    .read = read,
    .expresses = {"embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling",
                  "attention_bias", "mlp_bias"},
    .write = write,
};

}  // namespace upcycle::families
