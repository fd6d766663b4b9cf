#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "data/safetensors.h"
#include "parallel/models/export.h"
#include "parallel/models/hf_config.h"
#include "parallel/models/huggingface.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/data/expect_input_error.h"

// What the families of Mixtures-of-Experts beside Mixtral say, read and write.
namespace upcycle::test {
namespace {

using nlohmann::json;

json qwen2_moe() {
  return json::parse(R"({"model_type":"qwen2_moe","hidden_size":64,"intermediate_size":172,"num_hidden_layers":6,
    "num_attention_heads":8,"num_key_value_heads":4,"vocab_size":512,"max_position_embeddings":512,
    "rms_norm_eps":1e-06,"hidden_act":"silu","tie_word_embeddings":false,"rope_theta":1000000.0,"num_experts":10,
    "num_experts_per_tok":4,"moe_intermediate_size":40,"shared_expert_intermediate_size":160,"norm_topk_prob":false,
    "decoder_sparse_step":2,"mlp_only_layers":[3],"sliding_window":64,"use_sliding_window":false})");
}

json with(json file, const char* key, const json& value) {
  file[key] = value;
  return file;
}

ModelConfig parsed(const json& file) { return parse_hf_config(file.dump(), "m/config.json").model; }

json written(const ModelConfig& model, const std::string& type = "") {
  return json::parse(write_hf_config(model, StoredType::F32, "runs/moe", type));
}

TEST(MoeFamilies, ReadsQwen2Moe) {
  const ModelConfig m = parsed(qwen2_moe());
  EXPECT_EQ(m.num_local_experts, 10);
  EXPECT_EQ(m.num_experts_per_tok, 4);
  EXPECT_EQ(m.expert_size(), 40);
  EXPECT_EQ(m.router_softmax, "softmax_then_topk");
  EXPECT_EQ(m.router_aux_loss_coef, 0.001);
  EXPECT_EQ(m.moe_every_n_layers, 2);
  EXPECT_EQ(m.mlp_only_layers, std::vector<std::int64_t>{3});
  EXPECT_TRUE(m.shared_expert && m.shared_expert_gate);
  EXPECT_EQ(m.shared_size(), 160);
  EXPECT_EQ(m.attention_bias, "qkv");
  EXPECT_EQ(m.sliding_window, 0);
  for (std::int64_t l = 0; l < 6; ++l) EXPECT_EQ(m.is_moe_layer(l), l == 1 || l == 5) << l;
  EXPECT_EQ(parsed(with(qwen2_moe(), "norm_topk_prob", true)).router_softmax, "topk_then_softmax");
  EXPECT_EQ(parsed(with(qwen2_moe(), "qkv_bias", false)).attention_bias, "none");
  EXPECT_FALSE(parsed(with(qwen2_moe(), "shared_expert_intermediate_size", 0)).shared_expert);
  EXPECT_TRUE(parsed(with(qwen2_moe(), "mlp_only_layers", nullptr)).mlp_only_layers.empty());
  json file = qwen2_moe();
  file.erase("use_sliding_window");  // transformers takes false
  EXPECT_EQ(parsed(file).sliding_window, 0);
}

TEST(MoeFamilies, ReadsTransformers5sWordForExperts) {
  json file = with(qwen2_moe(), "model_type", "qwen3_moe");
  file["num_local_experts"] = file["num_experts"];
  file.erase("num_experts");
  EXPECT_EQ(parsed(file).num_local_experts, 10);
  EXPECT_EQ(parsed(file).qk_norm, "head");
  file.erase("num_local_experts");
  expect_input_error([&] { parsed(file); }, {"m/config.json", "missing", "num_experts"});
}

TEST(MoeFamilies, RefusesWhatTheyCanNotMean) {
  const auto refused = [](const json& file, std::initializer_list<const char*> parts) {
    expect_input_error([&] { parsed(file); }, parts);
  };
  refused(with(qwen2_moe(), "num_experts", 0), {"num_experts", "found 0"});
  refused(with(qwen2_moe(), "mlp_only_layers", {1, -1}), {"mlp_only_layers", "[1,-1]", "whole numbers"});
  refused(with(qwen2_moe(), "mlp_only_layers", {6}), {"mlp_only_layers", "found 6"});
  refused(with(qwen2_moe(), "decoder_sparse_step", 0), {"moe_every_n_layers", "found 0"});
  refused(with(qwen2_moe(), "use_sliding_window", true), {"sliding_window"});
  json file = with(qwen2_moe(), "model_type", "olmoe");
  file["clip_qkv"] = 8.0;
  refused(file, {"clip_qkv", "8.0", "null"});
}

TEST(MoeFamilies, WritesWhatItReads) {
  for (const char* type : {"qwen2_moe", "qwen3_moe", "olmoe", "granitemoe"}) {
    json file = with(qwen2_moe(), "model_type", type);
    file["num_local_experts"] = file["num_experts"];
    const ModelConfig model = parsed(file);
    ModelConfig again = parsed(written(model, type));
    again.head_dim = model.head_dim;  // written out, where the family has it
    EXPECT_EQ(again, model) << type;
  }
}

// No family computes sigmoid scores as they are here, so none takes such a model; what concerns training alone is no
// matter.
TEST(MoeFamilies, SigmoidRoutersAreRefusedByEachByKey) {
  for (const char* type : {"", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe"}) {
    ModelConfig model = small_model(4);
    if (std::string_view(type) == "qwen3_moe") model.qk_norm = "head";
    if (std::string_view(type) == "olmoe") model.qk_norm = "full", model.head_dim = 0;
    model.router_aux_loss_scope = "global_batch";
    model.router_bias_update_rate = 0.01;
    EXPECT_NO_THROW(written(model, type)) << type;
    model.router_score = "sigmoid";
    expect_input_error([&] { written(model, type); }, {"model.router_score: found \"sigmoid\", expected \"softmax\""});
    model.router_bias = true;
    expect_input_error([&] { written(model, type); }, {"cannot be exported"});
  }
}

// An upcycled model goes out as the first family that has words for it.
TEST(MoeFamilies, TheModelChoosesTheFamily) {
  ModelConfig model = small_model(4);
  const auto type = [&] { return written(model)["model_type"].get<std::string>(); };
  EXPECT_EQ(type(), "mixtral");
  for (const auto& change : std::vector<std::function<void(ModelConfig&)>>{
           [](ModelConfig& m) { m.shared_expert = true; }, [](ModelConfig& m) { m.moe_every_n_layers = 2; },
           [](ModelConfig& m) { m.mlp_only_layers = {0}; }, [](ModelConfig& m) { m.attention_bias = "qkv"; },
           [](ModelConfig& m) { m.router_softmax = "softmax_then_topk"; }}) {
    model = small_model(4);
    change(model);
    EXPECT_EQ(type(), "qwen2_moe");
  }
  model = small_model(4);
  model.qk_norm = "head";
  EXPECT_EQ(type(), "qwen3_moe");
  model.head_dim = 0;
  model.qk_norm = "full";
  EXPECT_EQ(type(), "olmoe");
  model.qk_norm = "none";
  model.logits_scaling = 3;
  EXPECT_EQ(type(), "granitemoe");
  model.shared_expert = true;  // beside a multiplier: no family
  expect_input_error([&] { written(model); }, {"runs/moe", "Mixtral"});
  expect_input_error([&] { written(small_model(4), "qwen3_moe"); }, {"model.qk_norm", "none", "head", "Qwen3-MoE"});
  expect_input_error([&] { written(small_model(4), "olmoe"); }, {"model.qk_norm", "none", "full", "OLMoE"});
  expect_input_error([&] { written(small_model(0), "qwen2_moe"); }, {"model.num_local_experts", "Qwen2-MoE"});
}

// A source whose tensors are all of one value.
struct Constant : TensorSource {
  std::string label = "constant";
  ModelConfig config;
  float value = 0.75f;
  const std::string& name() const override { return label; }
  const ModelConfig& model() const override { return config; }
  bool has(const std::string&) const override { return true; }
  void read(const std::string&, const Rectangle& part, float* out) override {
    std::fill(out, out + part.size(), value);
  }
};

TEST(MoeFamilies, Qwen2MoeGetsAGateThatHalvesWhatIsDoubled) {
  const TemporaryFolder folder;
  Constant source;
  source.config = small_model(4);
  source.config.shared_expert = true;
  source.config.moe_every_n_layers = 2;
  export_huggingface(source, {}, folder.file("hf"), {});
  const auto stored = SafetensorsSet::open(folder.file("hf"));
  const auto value_in = [](const SafetensorsSet& set, const std::string& name) {
    std::vector<float> values(set.info(name).bytes() / sizeof(float));
    set.read_rows(name, 0, set.info(name).rows, values.data());
    for (const float x : values) EXPECT_EQ(x, values[0]) << name;
    return values.at(0);
  };
  const auto value = [&](const std::string& name) { return value_in(stored, name); };
  EXPECT_EQ(value("model.layers.1.mlp.shared_expert_gate.weight"), 0x1p-60f);
  EXPECT_EQ(1 / (1 + std::exp(-0x1p-60f * 1e6f)), 0.5f);
  EXPECT_EQ(value("model.layers.1.mlp.shared_expert.down_proj.weight"), 1.5f);
  EXPECT_EQ(value("model.layers.1.mlp.shared_expert.up_proj.weight"), 0.75f);
  EXPECT_EQ(value("model.layers.1.mlp.experts.3.down_proj.weight"), 0.75f);
  EXPECT_EQ(value("model.layers.0.mlp.down_proj.weight"), 0.75f);
  EXPECT_EQ(value("model.layers.0.self_attn.k_proj.bias"), 0.0f);
  EXPECT_FALSE(stored.contains("model.layers.0.mlp.shared_expert_gate.weight"));
  // Read back it is a model with a gate and biases, which goes out as it is.
  const auto again = open_huggingface(folder.file("hf"));
  EXPECT_TRUE(again->model().shared_expert_gate);
  EXPECT_EQ(again->model().attention_bias, "qkv");
  export_huggingface(*again, {}, folder.file("twice"), {});
  const auto twice = SafetensorsSet::open(folder.file("twice"));
  EXPECT_EQ(twice.names().size(), stored.names().size());
  for (const std::string& name : stored.names()) EXPECT_EQ(value_in(twice, name), value(name)) << name;
}

// What fp16 can not hold: numbers that are too large, doubled ones too, and the weights of the gate, which would be 0.
TEST(MoeFamilies, Fp16HoldsNeitherTheLargestNorTheSmallest) {
  const TemporaryFolder folder;
  ExportOptions options;
  options.type = StoredType::F16;
  Constant source;
  const auto refused = [&](std::initializer_list<const char*> parts) {
    expect_input_error([&] { export_huggingface(source, {}, folder.file("hf"), options); }, parts);
    EXPECT_TRUE(folder.names().empty());
  };
  source.config = small_model(4);
  source.value = -65520;
  refused({"constant: tensor model.embed_tokens.weight", "-65520", "at most 65504", "--dtype"});
  source.config.shared_expert = true;
  source.value = 0.75f;
  refused({"constant: tensor model.layers.0.mlp.shared_expert_gate.weight", "0 in fp16", "--dtype"});
  source.config.shared_expert_gate = true;
  source.config.attention_bias = "qkv";
  source.value = 65519;  // rounded down
  export_huggingface(source, {}, folder.file("hf"), options);
  const auto stored = SafetensorsSet::open(folder.file("hf"));
  for (const std::string& name : stored.names()) {
    float value = 0;
    stored.read_rectangle(name, 0, 1, 0, 1, &value);
    EXPECT_EQ(value, 65504) << name;
    EXPECT_EQ(stored.info(name).type, StoredType::F16);
  }
}

// Without a shared expert its width is 0: the gate that remains is written and not read.
TEST(MoeFamilies, Qwen2MoeWithoutASharedExpert) {
  const TemporaryFolder folder;
  Constant source;
  source.config = small_model(4);
  source.config.router_softmax = "softmax_then_topk";
  export_huggingface(source, {}, folder.file("hf"), {});
  EXPECT_EQ(json::parse(folder.read("hf/config.json"))["shared_expert_intermediate_size"], 0);
  const auto stored = SafetensorsSet::open(folder.file("hf"));
  EXPECT_TRUE(stored.contains("model.layers.0.mlp.shared_expert_gate.weight"));
  EXPECT_FALSE(stored.contains("model.layers.0.mlp.shared_expert.down_proj.weight"));
  EXPECT_FALSE(open_huggingface(folder.file("hf"))->model().shared_expert);
}

}  // namespace
}  // namespace upcycle::test
