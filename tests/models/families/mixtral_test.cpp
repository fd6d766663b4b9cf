#include "tests/models/config_files.h"

namespace upcycle::test {
namespace {

TEST(Mixtral, ReadsItsKeys) {
  const ModelConfig m = parse(mixtral()).model;
  EXPECT_EQ(m.num_local_experts, 8);
  EXPECT_EQ(m.num_experts_per_tok, 2);
  EXPECT_EQ(m.expert_size(), 96);
  EXPECT_EQ(m.router_aux_loss_coef, 0.02);
  EXPECT_EQ(m.router_softmax, "topk_then_softmax");
  EXPECT_EQ(m.moe_every_n_layers, 1);
  EXPECT_FALSE(m.shared_expert);
}

TEST(Mixtral, WritesTheExpertsSize) {
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

TEST(Mixtral, RefusesWhatItCannotExpress) {
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

}  // namespace
}  // namespace upcycle::test
