#include <nlohmann/json.hpp>

#include "parallel/models/family.h"

namespace upcycle::families {
namespace {

void read(const ConfigObject&, ModelConfig&) {}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  if (model.is_moe()) refuse("num_local_experts", std::to_string(model.num_local_experts), "0");
  file["attention_bias"] = false;
  file["mlp_bias"] = false;
}

}  // namespace

extern const Family llama{
    .name = "Llama",
    .model_type = "llama",
    .architecture = "LlamaForCausalLM",
    .rope_theta = 1e4,
    .read = read,
    .write = write,
};

}  // namespace upcycle::families
