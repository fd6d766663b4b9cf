#include "parallel/models/original_config.h"

#include <gtest/gtest.h>

#include "parallel/models/family.h"
#include "tests/data/temporary_folder.h"

namespace upcycle {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// With keys that we have no use for, two ends of text, and the older words of RoPE.
ordered_json llama() {
  return ordered_json::parse(R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,
    "intermediate_size":172,"num_hidden_layers":4,"num_attention_heads":8,"num_key_value_heads":4,"vocab_size":512,
    "max_position_embeddings":512,"rms_norm_eps":1e-06,"bos_token_id":1,"eos_token_id":[2,7,9],"pad_token_id":3,
    "rope_theta":10000,"pretraining_tp":2,"a_later_key":{"of":[1]},"transformers_version":"4.31.0",
    "dtype":"bfloat16"})");
}

ordered_json of_family(const char* type, std::initializer_list<std::pair<const char*, ordered_json>> keys) {
  ordered_json file = llama();
  file["model_type"] = type;
  for (const auto& [key, value] : keys) file[key] = value;
  return file;
}

OriginalConfig original(const ordered_json& file) {
  const TemporaryFolder folder;
  return read_original_config(folder.write("config.json", file.dump()));
}

ordered_json exported(const OriginalConfig& from, const ModelConfig& model, const std::string& type = "",
                      StoredType dtype = StoredType::BF16) {
  return ordered_json::parse(write_hf_config(model, dtype, "m", type, &from));
}

TEST(OriginalConfig, ComesOutAsItWentIn) {
  const ordered_json longrope = {{"type", "su"}, {"short_factor", {1, 1.5, 2, 2}}, {"long_factor", {2, 2, 4, 4}}};
  for (const ordered_json& file :
       {llama(), of_family("mistral", {{"sliding_window", nullptr}}), of_family("mistral", {{"sliding_window", 64}}),
        of_family("qwen2", {{"max_window_layers", 21}, {"sliding_window", 64}, {"use_sliding_window", false}}),
        of_family("qwen3", {{"head_dim", 16}, {"sliding_window", nullptr}}), of_family("olmo2", {}),
        of_family("smollm3", {{"no_rope_layer_interval", 4}, {"no_rope_layers", {1, 0, 1, 0}}}),
        of_family("granite", {{"logits_scaling", 8}}),
        of_family("gemma", {{"hidden_act", "gelu"}, {"hidden_activation", nullptr}, {"head_dim", 16}}),
        of_family("phi3", {{"original_max_position_embeddings", 4096}, {"sliding_window", nullptr}}),
        of_family("phi3", {{"original_max_position_embeddings", 128}, {"rope_scaling", longrope}}),
        of_family("mixtral", {{"num_local_experts", 4}, {"num_experts_per_tok", 2}})}) {
    const OriginalConfig from = original(file);
    EXPECT_EQ(exported(from, from.read.model), file) << file.dump();
    ModelConfig model = from.read.model;
    model.router_z_loss_coef = 0.5;  // of training alone
    EXPECT_EQ(exported(from, model), file) << file.dump();
  }
}

TEST(OriginalConfig, TheTypeIsThatOfTheTensors) {
  ordered_json file = llama();
  const OriginalConfig from = original(file);
  file["dtype"] = "float32";
  EXPECT_EQ(exported(from, from.read.model, "", StoredType::F32), file);
  file["dtype"] = "float16";
  EXPECT_EQ(exported(from, from.read.model, "", StoredType::F16), file);
  file.erase("dtype");
  const OriginalConfig silent = original(file);
  EXPECT_EQ(exported(silent, silent.read.model), file);
}

TEST(OriginalConfig, AChangedModelHasOurKeysAndTheOthers) {
  ordered_json file = of_family("mixtral", {{"num_local_experts", 4}, {"num_experts_per_tok", 2}});
  file["architectures"] = {"MixtralForCausalLM"};
  const OriginalConfig from = original(file);
  ModelConfig model = from.read.model;
  model.router_aux_loss_coef = 0.25;
  const ordered_json out = exported(from, model);
  EXPECT_EQ(out["router_aux_loss_coef"], 0.25);
  EXPECT_FALSE(out.contains("torch_dtype"));
  for (const auto& [key, value] : file.items()) EXPECT_EQ(json(out[key]), json(value)) << key;
  model = parse_hf_config(out.dump(), "again").model;
  EXPECT_EQ(model.router_aux_loss_coef, 0.25);
}

// Zeros are written for the biases that it has none of: the file must say that they are there.
TEST(OriginalConfig, SaysTheTensorsThatAreWritten) {
  const ordered_json file = of_family("qwen2_moe", {{"num_experts", 4},
                                                    {"num_experts_per_tok", 2},
                                                    {"moe_intermediate_size", 16},
                                                    {"shared_expert_intermediate_size", 0},
                                                    {"qkv_bias", false}});
  const OriginalConfig from = original(file);
  const ordered_json out = exported(from, from.read.model);
  EXPECT_EQ(out["qkv_bias"], true);
  EXPECT_EQ(out["pad_token_id"], 3);
  EXPECT_TRUE(out.contains("a_later_key"));
}

TEST(OriginalConfig, InAnotherFamilyTokensStay) {
  const OriginalConfig from = original(llama());
  ModelConfig model = from.read.model;
  model.num_local_experts = 4;
  ordered_json out = exported(from, model);
  EXPECT_EQ(out["model_type"], "mixtral");
  EXPECT_EQ(out["pad_token_id"], 3);
  EXPECT_EQ(out["eos_token_id"], ordered_json({2, 7, 9}));
  EXPECT_FALSE(out.contains("a_later_key") || out.contains("transformers_version") || out.contains("pretraining_tp"));
  out = exported(from, from.read.model, "smollm3");  // whose own padding would be another
  EXPECT_EQ(out["pad_token_id"], 3);
  model.eos_token_id = 4;
  EXPECT_EQ(exported(from, model)["eos_token_id"], 4);
}

TEST(OriginalConfig, PythonFilesAreNotNamed) {
  ordered_json file = of_family("phi3", {{"sliding_window", nullptr}});
  file["auto_map"] = {{"AutoConfig", "configuration_phi3.Phi3Config"}};
  const OriginalConfig from = original(file);
  file.erase("auto_map");
  EXPECT_EQ(exported(from, from.read.model), file);
}

TEST(OriginalConfig, ChoosesTheFamily) {
  for (const char* type : {"mistral", "phi3", "granite", "llama"}) {
    ordered_json file = of_family(type, {{"sliding_window", nullptr}});
    const OriginalConfig from = original(file);
    EXPECT_STREQ(exported_family(from.read.model, "", &from).model_type, type);
    EXPECT_STREQ(exported_family(from.read.model, "smollm3", &from).model_type, "smollm3");
    ModelConfig model = from.read.model;
    model.num_local_experts = 4;
    EXPECT_STRNE(exported_family(model, "", &from).model_type, type);
  }
}

TEST(OriginalConfig, IsFoundAmongWhatTravels) {
  EXPECT_EQ(original_config({"a/tokenizer.json", "a/config.json"}), "a/config.json");
  EXPECT_EQ(original_config({"s/imported_config.json", "s/t.model"}), "s/imported_config.json");
  EXPECT_EQ(original_config({"a/generation_config.json"}), "");
  const TemporaryFolder folder;
  const std::string config = folder.write("config.json", llama().dump());
  const Origin origin = read_origin({"a/tokenizer.json", config, "a/t.model"});
  EXPECT_EQ(origin.files, (std::vector<std::string>{"a/tokenizer.json", "a/t.model"}));
  EXPECT_EQ(origin.original()->file, llama());
  EXPECT_EQ(read_origin({"a/tokenizer.json"}).original(), nullptr);
}

}  // namespace
}  // namespace upcycle
