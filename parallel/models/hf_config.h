#pragma once
#include <string>

#include "core/config/config.h"
#include "core/dtype.h"

// Hugging Face's config.json of LlamaForCausalLM and MixtralForCausalLM.
namespace upcycle {

struct HfConfig {
  ModelConfig model;
  std::string dtype;  // torch_dtype or dtype as written, "bfloat16"; "" where the file has none. The tensors decide.
};

// FOLDER/config.json, as transformers 4 or 5 writes it (rope_theta and rope_scaling, or rope_parameters). Keys that we
// do not know are passed over, but everything that would change the model's function and that we do not compute
// (biases, another activation, sliding windows, RoPE scalings other than llama3, dropout, quantization) is an
// InputError naming the key, as are missing keys, wrong types and sizes that do not fit together. Where transformers
// allows several eos ids the first is taken. Mixtral's intermediate_size is the expert's.
HfConfig read_hf_config(const std::string& folder);
HfConfig parse_hf_config(const std::string& text, const std::string& source_name);

// The text of a config.json that transformers 4 and 5 load: Llama where the model is dense, else Mixtral. `dtype` is
// that of the tensors beside it. Throws InputError naming the field where Mixtral has no word for it: shared_expert,
// moe_every_n_layers other than 1, router_softmax other than topk_then_softmax; `where` names the model's origin.
// router_z_loss_coef concerns training alone and is left out.
std::string write_hf_config(const ModelConfig& model, DType dtype, const std::string& where);

}  // namespace upcycle
