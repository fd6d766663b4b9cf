#include "parallel/models/hf_config.h"

#include "parallel/models/family.h"
#include "tests/models/config_files.h"
#include "tests/real_models.h"

namespace upcycle::test {
namespace {

TEST(HfConfig, AbsentKeysMeanWhatTransformersTakes) {
  json file = llama();
  for (const char* key : {"num_key_value_heads", "rope_theta", "tie_word_embeddings", "hidden_act", "torch_dtype",
                          "bos_token_id", "attention_bias"})
    file.erase(key);
  file["head_dim"] = nullptr;
  const HfConfig config = parse(file);
  EXPECT_EQ(config.model.kv_heads(), 8);
  EXPECT_EQ(config.model.rope_theta, 1e4);
  EXPECT_FALSE(config.model.tie_word_embeddings);
  EXPECT_EQ(config.model.bos_token_id, -1);
  EXPECT_EQ(config.dtype, "");
  file = mixtral();
  file.erase("rope_theta");
  EXPECT_EQ(parse(file).model.rope_theta, 1e6);
  EXPECT_EQ(parse(with(llama(), "head_dim", 16)).model.head_size(), 16);
  EXPECT_EQ(parse(with(llama(), "eos_token_id", {3, 4})).model.eos_token_id, 3);
  EXPECT_EQ(parse(with(file, "dtype", "bfloat16")).dtype, "float32");  // torch_dtype is there too
}

TEST(HfConfig, RefusesWhatWouldChangeTheFunction) {
  expect_refused(with(llama(), "model_type", "gpt2"), {"model_type", "'gpt2'", family_types().c_str()});
  expect_refused(with(llama(), "hidden_act", "gelu"), {"hidden_act", "'gelu'", "'silu'"});
  expect_refused(with(mixtral(), "attention_bias", true), {"attention_bias", "found true", "false", "Mixtral"});
  expect_refused(with(mixtral(), "mlp_bias", true), {"mlp_bias", "found true", "false", "Mixtral"});
  expect_refused(with(llama(), "attention_dropout", 0.1), {"attention_dropout", "0.1"});
  expect_refused(with(mixtral(), "router_jitter_noise", 0.1), {"router_jitter_noise"});
  expect_refused(with(llama(), "quantization_config", {{"bits", 4}}), {"quantization_config"});
  expect_refused(with(llama(), "sliding_window", 511), {"sliding_window", "511", "Llama"});
  EXPECT_EQ(parse(with(llama(), "sliding_window", 512)).model.sliding_window, 0);  // holds every sequence
  expect_refused(with(mixtral(), "sliding_window", 0), {"sliding_window", "found 0"});
  json file = with(mixtral(), "sliding_window", 511);
  EXPECT_EQ(parse(file).model.sliding_window, 511);
  EXPECT_EQ(parse(with(file, "use_sliding_window", false)).model.sliding_window, 0);
  EXPECT_EQ(parse(with(file, "layer_types", {"full_attention", "full_attention"})).model.sliding_window, 0);
  file["layer_types"] = {"full_attention", "sliding_attention"};
  expect_refused(file, {"layer_types", "one type of attention"});
}

TEST(HfConfig, NamesMissingKeys) {
  json file = llama();
  file.erase("hidden_size");
  file["vocab_size"] = nullptr;
  expect_refused(file, {"m/config.json", "missing", "hidden_size, vocab_size"});
  expect_refused(json::object(), {"missing", "model_type"});
  for (const char* key : {"num_local_experts", "num_experts_per_tok", "num_key_value_heads"}) {
    file = mixtral();
    file.erase(key);
    expect_refused(file, {"missing", key});
  }
}

TEST(HfConfig, NamesWrongTypes) {
  expect_refused(with(llama(), "hidden_size", "64"), {"hidden_size", "found '64'", "whole number"});
  for (const json& value : {json(64.5), json(-1), json(true), json({64}), json(18446744073709551615ull), json(1e300)})
    expect_refused(with(llama(), "hidden_size", value), {"hidden_size", value.dump().c_str(), "whole number"});
  expect_refused(with(llama(), "rms_norm_eps", "1e-5"), {"rms_norm_eps", "number"});
  expect_refused(with(llama(), "tie_word_embeddings", 1), {"tie_word_embeddings", "found 1", "true or false"});
  expect_refused(with(llama(), "hidden_act", 1), {"hidden_act", "text"});
  expect_refused(with(llama(), "bos_token_id", "1"), {"bos_token_id", "token id"});
  expect_refused(with(llama(), "bos_token_id", -1), {"bos_token_id", "token id"});
  expect_refused(with(llama(), "num_key_value_heads", 0), {"num_key_value_heads", "found 0"});
  expect_refused(json::array({1}), {"m/config.json", "expected an object"});
}

TEST(HfConfig, NamesBadFiles) {
  expect_input_error([] { parse_hf_config("{\"model_type\":", "m/config.json"); }, {"m/config.json"});
  expect_input_error([] { parse_hf_config(R"({"model_type":"llama","model_type":"llama"})", "m/config.json"); },
                     {"m/config.json", "model_type", "twice"});
  const TemporaryFolder folder;
  expect_input_error([&] { read_hf_config(folder.path.string()); }, {"config.json"});
  folder.write("config.json", std::string((1 << 20) + 1, ' '));
  expect_input_error([&] { read_hf_config(folder.path.string()); }, {"config.json"});
}

TEST(HfConfig, SizesMustFitTogether) {
  expect_refused(with(llama(), "num_attention_heads", 7), {"m/config.json", "num_attention_heads"});
  expect_refused(with(llama(), "num_key_value_heads", 3), {"m/config.json", "num_key_value_heads"});
  expect_refused(with(llama(), "num_hidden_layers", 0), {"m/config.json", "num_hidden_layers"});
  expect_refused(with(mixtral(), "num_experts_per_tok", 9), {"m/config.json", "num_experts_per_tok"});
  expect_refused(with(mixtral(), "num_local_experts", 0), {"m/config.json", "num_local_experts"});
}

TEST(HfConfig, WritesWhatItReads) {
  for (const json& file : {llama(), mixtral(), mistral()}) {
    for (const auto& [type, name] :
         {std::pair{StoredType::F32, "float32"}, {StoredType::BF16, "bfloat16"}, {StoredType::F16, "float16"}}) {
      ModelConfig model = parse(file).model;
      const HfConfig again = parse_hf_config(write_hf_config(model, type, "m"), "again");
      model.head_dim = model.head_size();  // written out
      EXPECT_EQ(again.model, model);
      EXPECT_EQ(again.dtype, name);
    }
  }
}

TEST(HfConfig, TheFamilyOfAnExportFollowsTheModel) {
  for (const json& file : {llama(), mixtral(), with(with(llama(), "attention_bias", true), "mlp_bias", true), qwen2(),
                           qwen3(), with(qwen3(), "attention_bias", true), olmo2()}) {
    ModelConfig model = parse(file).model;
    EXPECT_EQ(exported_family(model, "").model_type, file["model_type"].get<std::string>()) << file.dump();
    model.head_dim = model.head_size();
    EXPECT_EQ(parse_hf_config(write_hf_config(model, StoredType::F32, "m"), "again").model, model) << file.dump();
  }
}

TEST(HfConfig, RefusesByFieldWhatAFamilyCanNotExpress) {
  const auto refused = [](const json& file, const char* model_type, std::initializer_list<const char*> parts) {
    expect_input_error([&] { write_hf_config(parse(file).model, StoredType::F32, "runs/m", model_type); }, parts);
  };
  refused(qwen2(), "llama", {"runs/m", "model.attention_bias", "found qkv", "none or all", "Llama"});
  refused(qwen2(), "mixtral", {"model.attention_bias", "Mixtral"});
  refused(qwen3(), "llama", {"model.qk_norm", "head", "Llama"});
  refused(qwen3(), "qwen2", {"model.qk_norm", "head", "Qwen2"});
  refused(qwen2(), "qwen3", {"model.qk_norm", "found none", "expected head", "Qwen3"});
  refused(olmo2(), "qwen3", {"model.norm_placement", "post", "Qwen3"});
  refused(qwen3(), "olmo2", {"model.qk_norm", "found head", "expected full", "OLMo2"});
  refused(llama(), "qwen2", {"model.attention_bias", "found none", "expected qkv", "Qwen2"});
  refused(with(llama(), "mlp_bias", true), "qwen3", {"model.mlp_bias", "Qwen3"});
  ModelConfig none = parse(olmo2()).model;  // of no family
  none.mlp_bias = true;
  expect_input_error([&] { write_hf_config(none, StoredType::F32, "runs/m"); }, {"runs/m", "model.", "Llama"});
}

TEST(HfConfig, RefusesAFamilyThatTheModelIsNotOf) {
  const auto refused = [](const json& file, const char* model_type, std::initializer_list<const char*> parts) {
    expect_input_error([&] { write_hf_config(parse(file).model, StoredType::F32, "runs/moe", model_type); }, parts);
  };
  refused(mixtral(), "llama", {"runs/moe", "model.num_local_experts", "found 8", "expected 0", "Llama"});
  refused(llama(), "mixtral", {"runs/moe", "model.num_local_experts", "found 0", "Mixtral"});
  refused(llama(), "gpt2", {"export", "model_type", "'gpt2'", family_types().c_str()});
  EXPECT_EQ(write_hf_config(parse(llama()).model, StoredType::F32, "m", "llama"),
            write_hf_config(parse(llama()).model, StoredType::F32, "m"));
}

TEST(HfConfig, ReadsTheRealModels) {
  const std::string models = real_models();
  if (models.empty()) GTEST_SKIP();
  const ModelConfig stories = read_hf_config(models + "/stories260K/hf").model;
  EXPECT_EQ(stories.hidden_size, 64);
  EXPECT_EQ(stories.intermediate_size, 172);
  EXPECT_EQ(stories.vocab_size, 512);
  const HfConfig tiny = read_hf_config(models + "/TinyStories-656K");
  EXPECT_EQ(tiny.model.num_hidden_layers, 2);
  EXPECT_EQ(tiny.model.rms_norm_eps, 1e-6);
  EXPECT_EQ(tiny.dtype, "float32");
}

}  // namespace
}  // namespace upcycle::test
