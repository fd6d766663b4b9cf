#include "tests/models/config_files.h"

namespace upcycle::test {

json llama() {
  return json::parse(R"({"model_type":"llama","architectures":["LlamaForCausalLM"],"hidden_size":64,
    "intermediate_size":172,"num_hidden_layers":5,"num_attention_heads":8,"num_key_value_heads":4,"vocab_size":512,
    "max_position_embeddings":512,"rms_norm_eps":1e-05,"hidden_act":"silu","bos_token_id":1,"eos_token_id":2,
    "tie_word_embeddings":true,"rope_theta":10000.0,"torch_dtype":"float32","attention_bias":false,"mlp_bias":false,
    "attention_dropout":0.0,"rope_scaling":null,"use_cache":true,"a_later_key":[1]})");
}

json mixtral() {
  json file = llama();
  file["model_type"] = "mixtral";
  file["num_local_experts"] = 8;
  file["num_experts_per_tok"] = 2;
  file["intermediate_size"] = 96;
  file["rope_theta"] = 1e6;
  file["sliding_window"] = nullptr;
  file["router_aux_loss_coef"] = 0.02;
  return file;
}

json smollm3() {
  json file = llama();
  file["model_type"] = "smollm3";
  file["no_rope_layer_interval"] = 2;
  file["no_rope_layers"] = {1, 0, 1, 0, 1};
  return file;
}

json granite() {
  json file = llama();
  file["model_type"] = "granite";
  file.update({{"embedding_multiplier", 12}, {"attention_multiplier", 0.015625}});
  file.update({{"residual_multiplier", 0.22}, {"logits_scaling", 16}});
  return file;
}

json phi3() {
  json file = llama();
  file["model_type"] = "phi3";
  file["partial_rotary_factor"] = 0.5;
  file["original_max_position_embeddings"] = 128;
  file["rope_scaling"] = json::parse(R"({"type":"longrope","short_factor":[1,1.5],"long_factor":[2,4]})");
  file["sliding_window"] = 256;
  return file;
}

json mistral() {
  json file = with(llama(), "model_type", "mistral");
  file["sliding_window"] = 64;
  return file;
}

json qwen2() { return with(llama(), "model_type", "qwen2"); }
json qwen3() { return with(with(llama(), "model_type", "qwen3"), "head_dim", 16); }
json olmo2() { return with(llama(), "model_type", "olmo2"); }

json gemma() {
  json file = llama();
  file.erase("mlp_bias");
  file.update({{"model_type", "gemma"}, {"head_dim", 16}, {"hidden_act", "gelu_pytorch_tanh"}});
  file["hidden_activation"] = "gelu_pytorch_tanh";
  return file;
}

const char* const llama3 = R"({"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
                               "original_max_position_embeddings":128})";

json with(json file, const char* key, const json& value) {
  file[key] = value;
  return file;
}

HfConfig parse(const json& file) { return parse_hf_config(file.dump(), "m/config.json"); }

void expect_refused(const json& file, std::initializer_list<const char*> parts) {
  expect_input_error([&] { parse(file); }, parts);
}

void expect_forms(const json& file, const char* attention_bias, const char* qk_norm, const char* norm_placement) {
  const ModelConfig m = parse(file).model;
  EXPECT_EQ(m.attention_bias, attention_bias) << file.dump();
  EXPECT_EQ(m.qk_norm, qk_norm) << file.dump();
  EXPECT_EQ(m.norm_placement, norm_placement) << file.dump();
  EXPECT_FALSE(m.mlp_bias) << file.dump();
}

void expect_written_as_itself(const json& file, const std::set<std::string>& without) {
  const std::string type = file["model_type"];
  ModelConfig model = parse(file).model;
  const json written = json::parse(write_hf_config(model, StoredType::F32, "m", type));
  for (const auto& [key, value] : file.items()) {
    if (key == "a_later_key" || key == "architectures" || without.count(key) != 0) continue;
    EXPECT_EQ(written.value(key, json("nothing")), value) << key;
  }
  ModelConfig again = parse(written).model;
  EXPECT_EQ(json::parse(write_hf_config(model, StoredType::F32, "m"))["model_type"], type);
  again.head_dim = model.head_dim = 0;
  EXPECT_EQ(again, model);
  expect_input_error([&] { write_hf_config(model, StoredType::F32, "runs/x", "llama"); },
                     {"runs/x", "model.", "Llama"});
}

}  // namespace upcycle::test
