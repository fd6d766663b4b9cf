#include "parallel/models/hf_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "parallel/models/family.h"
#include "tests/data/expect_input_error.h"
#include "tests/real_models.h"

namespace upcycle {
namespace {

using nlohmann::json;

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

HfConfig parse(const json& file) { return parse_hf_config(file.dump(), "m/config.json"); }

void expect_refused(const json& file, std::initializer_list<const char*> parts) {
  expect_input_error([&] { parse(file); }, parts);
}
// `file` with one key changed.
json with(json file, const char* key, const json& value) {
  file[key] = value;
  return file;
}

const char* const llama3 = R"({"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
                               "original_max_position_embeddings":128})";

TEST(HfConfig, ReadsLlama) {
  const HfConfig config = parse(llama());
  const ModelConfig& m = config.model;
  EXPECT_EQ(m.hidden_size, 64);
  EXPECT_EQ(m.intermediate_size, 172);
  EXPECT_EQ(m.num_hidden_layers, 5);
  EXPECT_EQ(m.num_attention_heads, 8);
  EXPECT_EQ(m.num_key_value_heads, 4);
  EXPECT_EQ(m.head_size(), 8);
  EXPECT_EQ(m.vocab_size, 512);
  EXPECT_EQ(m.max_position_embeddings, 512);
  EXPECT_EQ(m.rms_norm_eps, 1e-5);
  EXPECT_EQ(m.rope_theta, 1e4);
  EXPECT_EQ(m.rope_scaling, RopeScaling{});
  EXPECT_EQ(m.bos_token_id, 1);
  EXPECT_EQ(m.eos_token_id, 2);
  EXPECT_TRUE(m.tie_word_embeddings);
  EXPECT_FALSE(m.is_moe());
  EXPECT_EQ(config.dtype, "float32");
}

TEST(HfConfig, ReadsMixtral) {
  const ModelConfig m = parse(mixtral()).model;
  EXPECT_EQ(m.num_local_experts, 8);
  EXPECT_EQ(m.num_experts_per_tok, 2);
  EXPECT_EQ(m.expert_size(), 96);
  EXPECT_EQ(m.router_aux_loss_coef, 0.02);
  EXPECT_EQ(m.router_softmax, "topk_then_softmax");
  EXPECT_EQ(m.moe_every_n_layers, 1);
  EXPECT_FALSE(m.shared_expert);
}

json qwen2() { return with(llama(), "model_type", "qwen2"); }
json qwen3() { return with(with(llama(), "model_type", "qwen3"), "head_dim", 16); }
json olmo2() { return with(llama(), "model_type", "olmo2"); }

TEST(HfConfig, FamiliesSayBiasesAndNorms) {
  const auto expect = [](const json& file, const char* attention_bias, const char* qk_norm, const char* placement) {
    const ModelConfig m = parse(file).model;
    EXPECT_EQ(m.attention_bias, attention_bias) << file.dump();
    EXPECT_EQ(m.qk_norm, qk_norm) << file.dump();
    EXPECT_EQ(m.norm_placement, placement) << file.dump();
    EXPECT_FALSE(m.mlp_bias) << file.dump();
  };
  expect(llama(), "none", "none", "pre");
  expect(with(llama(), "attention_bias", true), "all", "none", "pre");
  expect(qwen2(), "qkv", "none", "pre");
  expect(qwen3(), "none", "head", "pre");
  expect(with(qwen3(), "attention_bias", true), "all", "head", "pre");
  expect(olmo2(), "none", "full", "post");
  expect(with(olmo2(), "attention_bias", true), "all", "full", "post");
  EXPECT_TRUE(parse(with(llama(), "mlp_bias", true)).model.mlp_bias);
  expect_refused(with(qwen2(), "mlp_bias", true), {"mlp_bias", "Qwen2"});
  expect_refused(with(olmo2(), "mlp_bias", true), {"mlp_bias", "OLMo2"});
}

// Qwen's files have a window that a switch leaves off, as it is where there is none.
TEST(HfConfig, AWindowThatIsSwitchedOffIsNone) {
  for (const json& qwen : {qwen2(), qwen3()}) {
    const json file = with(with(qwen, "sliding_window", 64), "max_window_layers", 2);
    EXPECT_EQ(parse(file).model.sliding_window, 0);
    EXPECT_EQ(parse(with(file, "use_sliding_window", false)).model.sliding_window, 0);
    expect_refused(with(file, "use_sliding_window", true), {"sliding_window", "found 64", "Qwen"});
  }
}

TEST(HfConfig, QwensSizesMustBeSaid) {
  json file = qwen3();
  file.erase("head_dim");
  expect_refused(file, {"missing", "head_dim"});
  for (file = qwen2(); file.contains("num_key_value_heads");) {
    file.erase("num_key_value_heads");
    expect_refused(file, {"missing", "num_key_value_heads"});
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

TEST(HfConfig, ReadsBothFormsOfRope) {
  const json scaling = json::parse(llama3);
  const RopeScaling expected{"llama3", 32, 1, 4, 128};
  EXPECT_EQ(parse(with(llama(), "rope_scaling", scaling)).model.rope_scaling, expected);
  json file = llama();
  file.erase("rope_theta");
  file.erase("rope_scaling");
  file["rope_parameters"] = with(scaling, "rope_theta", 5e5);
  EXPECT_EQ(parse(file).model.rope_scaling, expected);
  EXPECT_EQ(parse(file).model.rope_theta, 5e5);
  file["rope_parameters"] = {{"rope_theta", 5e5}, {"rope_type", "default"}};
  EXPECT_EQ(parse(file).model.rope_scaling, RopeScaling{});
  EXPECT_EQ(parse(file).model.rope_theta, 5e5);
  json old_word = scaling;
  old_word.erase("rope_type");
  old_word["type"] = "llama3";
  EXPECT_EQ(parse(with(llama(), "rope_scaling", old_word)).model.rope_scaling, expected);
}

TEST(HfConfig, ReadsEveryScalingOfRope) {
  const auto scaling_of = [](const char* text) {
    return parse(with(llama(), "rope_scaling", json::parse(text))).model.rope_scaling;
  };
  RopeScaling expected{"linear", 2};
  EXPECT_EQ(scaling_of(R"({"type":"linear","factor":2})"), expected);
  expected.rope_type = "dynamic";
  EXPECT_EQ(scaling_of(R"({"rope_type":"dynamic","factor":2.0})"), expected);
  expected = {"yarn", 4, 1, 4, 512};  // without the original length, that of the model
  EXPECT_EQ(scaling_of(R"({"rope_type":"yarn","factor":4})"), expected);
  expected.original_max_position_embeddings = 128;
  expected.beta_fast = 16;
  expected.mscale = expected.mscale_all_dim = 0.7;
  expected.truncate = false;
  expected.attention_factor = 1.25;
  EXPECT_EQ(scaling_of(R"({"rope_type":"yarn","factor":4,"original_max_position_embeddings":128,"beta_fast":16,
      "beta_slow":null,"mscale":0.7,"mscale_all_dim":0.7,"truncate":false,"attention_factor":1.25})"),
            expected);
  expected = {"longrope", 1, 1, 4, 128};
  expected.short_factor = {1, 1.5, 2, 2.5};
  expected.long_factor = {1, 2, 4, 8};
  EXPECT_EQ(scaling_of(R"({"type":"su","original_max_position_embeddings":128,"short_factor":[1,1.5,2,2.5],
      "long_factor":[1,2,4,8]})"),
            expected);
}

TEST(HfConfig, RefusesRopesThatDiffer) {
  const json scaling = json::parse(llama3);
  expect_refused(with(llama(), "rope_parameters", {{"rope_theta", 5e5}, {"rope_type", "default"}}),
                 {"m/config.json", "rope_theta", "10000", "500000"});
  json file = with(llama(), "rope_scaling", scaling);
  file["rope_parameters"] = with(scaling, "factor", 8);
  expect_refused(file, {"rope_scaling", "rope_parameters"});
}

TEST(HfConfig, RefusesOtherRopes) {
  for (const char* type : {"mrope", "proportional"})
    expect_refused(with(llama(), "rope_scaling", {{"rope_type", type}, {"factor", 2}}),
                   {"m/config.json: rope_scaling", "rope_type", type, "llama3"});
  expect_refused(with(llama(), "rope_scaling", {{"type", "linear"}}), {"rope_scaling", "factor", "nothing"});
  expect_refused(with(llama(), "rope_scaling", {{"type", "longrope"}, {"short_factor", 2}}),
                 {"rope_scaling", "short_factor", "found 2", "list"});
  expect_refused(with(llama(), "rope_scaling", {{"type", "yarn"}, {"factor", 2}, {"attention_factor", 0}}),
                 {"rope_scaling", "attention_factor", "found 0"});
  json file =
      with(llama(), "rope_scaling", {{"type", "yarn"}, {"factor", 2}, {"original_max_position_embeddings", 64}});
  expect_refused(with(file, "original_max_position_embeddings", 128),
                 {"original_max_position_embeddings", "64", "128"});
  expect_refused(with(llama(), "rope_scaling", {{"rope_type", "llama3"}, {"factor", 2}}),
                 {"rope_scaling", "low_freq_factor", "nothing", "number"});
  expect_refused(with(llama(), "rope_scaling", 2), {"rope_scaling", "found 2", "object"});
  expect_refused(with(llama(), "partial_rotary_factor", 0.5), {"partial_rotary_factor", "0.5", "Llama"});
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
  json longrope = with(llama(), "rope_scaling", json::parse(R"({"type":"longrope","short_factor":[1,1.5,2,2.5],
      "long_factor":[1,2,4,8],"factor":3,"original_max_position_embeddings":128})"));
  for (json file :
       {llama(), mixtral(), with(mixtral(), "sliding_window", 64), with(llama(), "rope_scaling", json::parse(llama3)),
        with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 2}}),
        with(llama(), "rope_scaling", {{"type", "dynamic"}, {"factor", 3}}),
        with(llama(), "rope_scaling", {{"type", "yarn"}, {"factor", 4}, {"beta_slow", 2}, {"attention_factor", 0.5}}),
        longrope}) {
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

// As their own family, with the same keys, and as the one that the model's form chooses.
TEST(HfConfig, WritesEveryFamilyAsItself) {
  json mistral = with(llama(), "model_type", "mistral");
  mistral["sliding_window"] = 64;
  for (const json& file : {mistral, smollm3(), granite(), phi3()}) {
    const std::string type = file["model_type"];
    SCOPED_TRACE(type);
    ModelConfig model = parse(file).model;
    const json written = json::parse(write_hf_config(model, StoredType::F32, "m", type));
    for (const auto& [key, value] : file.items()) {
      if (key == "a_later_key" || key == "architectures" ||
          (type == "phi3" && (key == "attention_bias" || key == "mlp_bias")))
        continue;
      if (type == "mistral" && (key == "attention_bias" || key == "mlp_bias")) continue;
      EXPECT_EQ(written.value(key, json("nothing")), value) << key;
    }
    ModelConfig again = parse(written).model;
    EXPECT_EQ(json::parse(write_hf_config(model, StoredType::F32, "m"))["model_type"], type);
    again.head_dim = model.head_dim = 0;
    EXPECT_EQ(again, model);
    expect_input_error([&] { write_hf_config(model, StoredType::F32, "runs/x", "llama"); },
                       {"runs/x", "model.", "Llama"});
  }
}

TEST(HfConfig, ReadsWhatAbsentKeysOfAFamilyMean) {
  json file = with(llama(), "model_type", "mistral");
  EXPECT_EQ(parse(file).model.sliding_window, 4096);
  EXPECT_EQ(parse(with(file, "sliding_window", nullptr)).model.sliding_window, 0);
  file = with(llama(), "model_type", "smollm3");
  file.erase("rope_theta");
  file.erase("tie_word_embeddings");
  EXPECT_EQ(parse(file).model.no_rope_every, 4);
  EXPECT_EQ(parse(file).model.rope_theta, 2e6);
  EXPECT_TRUE(parse(file).model.tie_word_embeddings);
  EXPECT_EQ(parse(with(file, "no_rope_layers", {1, 1, 1, 1, 1})).model.no_rope_every, 0);
  EXPECT_EQ(parse(with(llama(), "model_type", "granite")).model.attention_multiplier, 1);
}

TEST(HfConfig, RefusesWhatAFamilyDoesNotMean) {
  expect_refused(with(smollm3(), "no_rope_layers", {1, 0, 0, 1, 1}), {"no_rope_layers", "every n-th"});
  expect_refused(with(smollm3(), "no_rope_layers", {1, 0}), {"no_rope_layers", "each layer"});
  expect_refused(with(granite(), "attention_multiplier", 0), {"attention_multiplier", "found 0"});
  expect_refused(with(phi3(), "resid_pdrop", 0.1), {"resid_pdrop", "0.1"});
  expect_refused(with(phi3(), "rope_scaling", {{"type", "linear"}, {"factor", 2}}), {"rope_scaling", "longrope"});
  json file = phi3();
  file.erase("original_max_position_embeddings");  // of the model: its longest, 512
  expect_refused(file, {"original_max_position_embeddings", "4096"});
}

TEST(HfConfig, WritesTheExpertsSizeForMixtral) {
  ModelConfig model = parse(llama()).model;
  model.num_local_experts = 16;
  model.num_experts_per_tok = 4;
  model.moe_intermediate_size = 43;
  const json file = json::parse(write_hf_config(model, StoredType::F32, "runs/moe"));
  EXPECT_EQ(file["architectures"], json::array({"MixtralForCausalLM"}));
  EXPECT_EQ(file["model_type"], "mixtral");
  EXPECT_EQ(file["intermediate_size"], 43);
  EXPECT_EQ(file["num_local_experts"], 16);
  EXPECT_EQ(file["num_experts_per_tok"], 4);
}

TEST(HfConfig, RefusesWhatMixtralCannotExpress) {
  ModelConfig model = parse(mixtral()).model;
  const auto expect_no_export = [](const ModelConfig& m, const char* field) {
    expect_input_error([&] { write_hf_config(m, StoredType::F32, "runs/moe", "mixtral"); },
                       {"runs/moe", field, "Mixtral"});
  };
  ModelConfig changed = model;
  changed.shared_expert = true;
  expect_no_export(changed, "model.shared_expert");
  changed = model;
  changed.num_hidden_layers = 4;
  changed.moe_every_n_layers = 2;
  expect_no_export(changed, "model.moe_every_n_layers");
  changed.moe_every_n_layers = 1;
  changed.mlp_only_layers = {1, 3};
  expect_no_export(changed, "model.mlp_only_layers: found [1,3]");
  changed = model;
  changed.router_softmax = "softmax_then_topk";
  expect_no_export(changed, "model.router_softmax");
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
}  // namespace upcycle
