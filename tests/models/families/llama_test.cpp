#include "tests/models/config_files.h"

namespace upcycle::test {
namespace {

TEST(Llama, ReadsLlama) {
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

TEST(Llama, HasBiasesOnRequest) {
  expect_forms(llama(), "none", "none", "pre");
  expect_forms(with(llama(), "attention_bias", true), "all", "none", "pre");
  EXPECT_TRUE(parse(with(llama(), "mlp_bias", true)).model.mlp_bias);
}

}  // namespace
}  // namespace upcycle::test
