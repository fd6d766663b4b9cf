#pragma once
#include <string>

#include "core/config/config.h"
#include "data/safetensors.h"

// Hugging Face's config.json: the keys that all families of models have. Each family's own are in families/.
namespace upcycle {

struct Family;

struct HfConfig {
  const Family* family = nullptr;
  ModelConfig model;
  std::string dtype;  // torch_dtype or dtype as written, "bfloat16"; "" where the file has none. The tensors decide.
};

// FOLDER/config.json, as transformers 4 or 5 writes it (rope_theta and rope_scaling, or rope_parameters). Unknown keys
// are ignored, but everything that would change the model's function and that we do not compute (another
// activation, unknown RoPE scalings, dropout, quantization) is an InputError naming the key,
// as are missing keys, wrong types and sizes that do not fit together. Where transformers allows several eos ids the
// first is taken.
HfConfig read_hf_config(const std::string& folder);
// The text of such a file. Anything but a regular file is an InputError: a folder from elsewhere may hold a pipe.
std::string read_hf_config_text(const std::string& path);
HfConfig parse_hf_config(const std::string& text, const std::string& source_name);

struct OriginalConfig;  // original_config.h

// The family that a model is exported as: the one of that model_type; for "" the one that it came in as, if that can
// express it still, or else the first that can, Llama and Mixtral before others. If none can, Llama if the model is
// dense, else Mixtral, which then refuse it by field. InputError if there is none of that model_type.
const Family& exported_family(const ModelConfig& model, const std::string& model_type,
                              const OriginalConfig* original = nullptr);

// The text of a config.json that transformers 4 and 5 load, of the family that exported_family() names, with the keys
// of the original. `type` is that of the tensors beside it (weight_type.h). Throws InputError naming the field where
// the family can not express it; `where` names the model's origin. router_z_loss_coef concerns only training and is
// left out.
std::string write_hf_config(const ModelConfig& model, StoredType type, const std::string& where,
                            const std::string& model_type = "", const OriginalConfig* original = nullptr);

}  // namespace upcycle
