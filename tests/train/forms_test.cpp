#include <gtest/gtest.h>

#include <cmath>

#include "parallel/train/trainer_state.h"
#include "tests/model_forms.h"
#include "tests/train/rig.h"

// Layers of other forms than Llama's. Their gradients are compared with PyTorch's by golden_test.cpp.
namespace upcycle {
namespace {

const Rig rig;
const Mesh mesh = single_mesh(rig);

Config config_of(const ModelForm& form, const char* dtype) {
  Config c = form.mlp_bias ? small_config() : small_moe_config();
  c.dtype = dtype;
  c.train.global_batch_size = c.train.micro_batch_size;
  c.model.num_hidden_layers = 3;
  c.model.moe_every_n_layers = 2;
  c.model = form.of(c.model);
  return c;
}

std::vector<std::vector<float>> gradients_of(const Trainer& t) {
  std::vector<std::vector<float>> all;
  for (const ParamRow& row : t.table().rows) all.push_back(gradient_of(t, row));
  return all;
}

class Forms : public ::testing::TestWithParam<ModelForm> {};

TEST_P(Forms, RecomputeIsBitwiseTheSame) {
  for (const char* dtype : {"fp32", "bf16"}) {
    Config c = config_of(GetParam(), dtype);
    const FixedSequences data = random_sequences(8, 9, c.model.vocab_size, 1);
    Trainer none = random_trainer(rig, c, mesh);
    std::vector<StepResult> want;
    for (int i = 0; i < 2; ++i) want.push_back(train_step(none, data.source()));
    for (const char* recompute : {"full", "norms", "attention,mlp,norms"}) {
      SCOPED_TRACE(std::string(dtype) + " " + recompute);
      c.train.recompute = recompute;
      Trainer again = random_trainer(rig, c, mesh);
      // Norms of outputs are not made again by themselves: what they read is not kept.
      if (c.model.norm_placement == "pre" || c.train.recompute != "norms") {
        EXPECT_LT(again.activations.capacity(), none.activations.capacity());
      }
      for (const StepResult& a : want) {
        const StepResult b = train_step(again, data.source());
        EXPECT_EQ(a.loss, b.loss);
        EXPECT_EQ(a.grad_norm, b.grad_norm);
      }
      EXPECT_TRUE(gradients_of(none) == gradients_of(again));
      expect_same_state(state_of(none), state_of(again));
    }
  }
}

// Biases start at 0 and norms at 1 (of 1 + weight, at 0), take no decay, and learn.
TEST_P(Forms, VectorsStartPlainAndLearn) {
  Config c = config_of(GetParam(), "fp32");
  c.train.weight_decay = 0.5;
  Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
  initialize_trainer(t, 3);
  const TrainedState before = state_of(t);
  (void)train_step(t, random_sequences(8, 9, c.model.vocab_size, 1).source());
  const TrainedState after = state_of(t);
  for (const ParamRow& row : t.table().rows) {
    if (!row.is_vector) continue;
    const float start = row.initializer == Initializer::Zeros ? 0.0f : 1.0f;
    EXPECT_EQ(row.initializer == Initializer::Zeros, row.name.ends_with(".bias") || c.model.norm_unit_offset)
        << row.name;
    for (std::size_t i = 0; i < before.parameters.at(row.name).weight.size(); ++i) {
      EXPECT_EQ(before.parameters.at(row.name).weight[i], start) << row.name;
      // The first AdamW step is lr at most, whatever the gradient.
      EXPECT_NEAR(after.parameters.at(row.name).weight[i], start, 1.01 * c.train.lr) << row.name;
    }
    EXPECT_FALSE(before.parameters.at(row.name).weight == after.parameters.at(row.name).weight) << row.name;
  }
}

// The root of H that Gemma's embedding is multiplied by has the type of the activations: of 20 it is 4.46875 in bf16.
TEST(GemmaEmbedding, TheRootIsRoundedToTheType) {
  Config c = small_config();
  c.model.hidden_size = 20;
  c.model.head_dim = 6;
  const FixedSequences data = random_sequences(8, 9, c.model.vocab_size, 1);
  const auto loss_of = [&](const char* dtype, double multiplier) {
    c.dtype = dtype;
    c.model.embedding_multiplier = multiplier;
    Trainer t = random_trainer(rig, c, mesh);
    return train_step(t, data.source());
  };
  for (const auto& [dtype, root] : {std::pair{"fp32", std::sqrt(20.0)}, {"bf16", 4.46875}}) {
    const StepResult is = loss_of(dtype, 0), same = loss_of(dtype, root);
    EXPECT_EQ(is.loss, same.loss) << dtype;
    EXPECT_EQ(is.grad_norm, same.grad_norm) << dtype;
  }
  EXPECT_NE(loss_of("bf16", 0).loss, loss_of("bf16", std::sqrt(20.0)).loss);
}

INSTANTIATE_TEST_SUITE_P(All, Forms,
                         ::testing::Values(kBiases, kHeadNorms, kPostNorms, kBiasedPostNorms, kEverything, kMultiplied,
                                           kMultipliedPostNorms, kGemma, kGemmaPostNorms),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace upcycle
