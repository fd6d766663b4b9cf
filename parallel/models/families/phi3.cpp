#include <nlohmann/json.hpp>

#include "parallel/models/family.h"

namespace upcycle::families {
namespace {

constexpr const char* original = "original_max_position_embeddings";
constexpr std::int64_t default_original = 4096;  // what transformers takes where the key is absent

bool scaled(const ModelConfig& model) { return !model.rope_scaling.rope_type.empty(); }

void read(const ConfigObject& file, ModelConfig& model) {
  for (const char* key : {"resid_pdrop", "embd_pdrop"})
    if (file.number(key, 0) != 0) file.refuse(key, "0; it is not supported, set it to 0 to train without");
  if (scaled(model) && model.rope_scaling.rope_type != "longrope")
    file.refuse("rope_scaling", "rope_type 'default' or 'longrope': in Phi-3 other words mean something else");
  if (scaled(model) && !file.has(original) && model.rope_scaling.original_max_position_embeddings != default_original)
    file.refuse(original, std::to_string(model.rope_scaling.original_max_position_embeddings) +
                              ", as in rope_scaling: without it transformers takes 4096");
}

void write(const ModelConfig& model, const Refuse& refuse, nlohmann::ordered_json& file) {
  const RopeScaling& s = model.rope_scaling;
  if (scaled(model) && s.rope_type != "longrope") refuse("rope_scaling.rope_type", s.rope_type, "longrope");
  if (model.head_dim == 0) file.erase("head_dim");
  file[original] = scaled(model) ? s.original_max_position_embeddings : model.max_position_embeddings;
  if (scaled(model)) {  // transformers 4 takes just these three keys, and "type" for "rope_type"
    file["rope_scaling"].erase("rope_type");
    file["rope_scaling"].erase(original);
    file["rope_scaling"]["type"] = s.rope_type;
  }
  file["resid_pdrop"] = 0.0;
  file["embd_pdrop"] = 0.0;
  file["sliding_window"] = model.sliding_window > 0 ? nlohmann::ordered_json(model.sliding_window) : nullptr;
  file["pad_token_id"] = nullptr;
}

}  // namespace

extern const Family phi3{
    .name = "Phi-3",
    .model_type = "phi3",
    .architecture = "Phi3ForCausalLM",
    .rope_theta = 1e4,
    .read = read,
    .expresses = {"partial_rotary_factor", "sliding_window"},
    .write = write,
    .stacks = {{"model.layers.{}.self_attn.qkv_proj.weight", {ParamRole::Query, ParamRole::Key, ParamRole::Value}},
               {"model.layers.{}.mlp.gate_up_proj.weight", {ParamRole::Gate, ParamRole::Up}}},
};

}  // namespace upcycle::families
