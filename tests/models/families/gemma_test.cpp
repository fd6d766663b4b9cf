#include "tests/models/config_files.h"

namespace upcycle::test {
namespace {

TEST(Gemma, IsWrittenAsItself) { expect_written_as_itself(gemma()); }

TEST(Gemma, ReadsItsFunction) {
  const ModelConfig m = parse(gemma()).model;
  EXPECT_EQ(m.hidden_act, "gelu_tanh");
  EXPECT_TRUE(m.norm_unit_offset);
  EXPECT_EQ(m.embedding_multiplier, 0);
  EXPECT_EQ(m.head_dim, 16);
  json file = gemma();
  for (const char* key : {"hidden_act", "hidden_activation", "tie_word_embeddings", "attention_bias"}) file.erase(key);
  EXPECT_EQ(parse(file).model, m);
  EXPECT_EQ(parse(with(gemma(), "attention_bias", true)).model.attention_bias, "all");
  EXPECT_FALSE(parse(with(gemma(), "tie_word_embeddings", false)).model.tie_word_embeddings);
  file["hidden_act"] = "gelu";  // as the models came out
  file["hidden_activation"] = nullptr;
  EXPECT_EQ(parse(file).model, m);
}

TEST(Gemma, RefusesWhatItDoesNotMean) {
  expect_refused(with(gemma(), "hidden_act", "silu"), {"hidden_act", "'silu'", "expected 'gelu_pytorch_tanh'"});
  for (const char* value : {"gelu", "silu"})
    expect_refused(with(gemma(), "hidden_activation", value),
                   {"hidden_activation", value, "'gelu_pytorch_tanh' or null"});
  expect_refused(with(gemma(), "use_bidirectional_attention", true), {"use_bidirectional_attention", "true", "causal"});
  expect_refused(with(gemma(), "mlp_bias", true), {"mlp_bias", "Gemma"});
  for (const char* key : {"head_dim", "num_key_value_heads"}) {
    json file = gemma();
    file.erase(key);
    expect_refused(file, {"missing", key});
  }
  expect_refused(with(gemma(), "model_type", "gemma2"),
                 {"model_type", "'gemma2'", "'gemma'", "soft caps", "four norms"});
  for (const char* type : {"gemma3", "gemma3_text"})
    expect_refused(with(gemma(), "model_type", type), {"model_type", type, "windows in most layers", "four norms"});
  // Of the other families none has another activation.
  expect_refused(with(mixtral(), "hidden_act", "gelu_pytorch_tanh"), {"hidden_act", "'silu'", "Mixtral"});
}

TEST(Gemma, RefusesToExportHalfOfIt) {
  const auto refused = [](const char* type, auto change, std::initializer_list<const char*> parts) {
    ModelConfig model = parse(gemma()).model;
    change(model);
    expect_input_error([&] { write_hf_config(model, StoredType::F32, "runs/x", type); }, parts);
  };
  refused("gemma", [](ModelConfig& m) { m.hidden_act = "silu"; }, {"runs/x", "model.hidden_act", "gelu_tanh", "Gemma"});
  refused("gemma", [](ModelConfig& m) { m.norm_unit_offset = false; }, {"model.norm_unit_offset", "true", "Gemma"});
  refused("gemma", [](ModelConfig& m) { m.embedding_multiplier = 8; }, {"model.embedding_multiplier", "found 8"});
  refused("gemma", [](ModelConfig& m) { m.attention_bias = "qkv"; }, {"model.attention_bias", "qkv"});
  refused("granite",
          [](ModelConfig& m) {
            m.hidden_act = "silu";
            m.norm_unit_offset = false;
          },
          {"model.embedding_multiplier", "found 0", "Granite"});
  // With experts there is no family that has its activation, whatever else they say.
  const auto experts = [](ModelConfig& m) { m.num_local_experts = 4; };
  for (const char* type : {"", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe"})
    refused(type, experts, {"runs/x: model.hidden_act", "gelu_tanh", "expected", "silu"});
  refused("gemma", experts, {"model.num_local_experts", "found 4", "Gemma"});
}

}  // namespace
}  // namespace upcycle::test
