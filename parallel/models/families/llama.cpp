#include <nlohmann/json.hpp>

#include "parallel/models/family.h"

namespace upcycle::families {
namespace {

void read(const ConfigObject&, ModelConfig&) {}

void write(const ModelConfig&, const Refuse&, nlohmann::ordered_json& file) {
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
