#include "parallel/train/router_bias.h"

#include <gtest/gtest.h>

#include <numeric>

#include "parallel/model/transformer.h"
#include "parallel/train/owned_state.h"
#include "tests/train/rig.h"

namespace upcycle {
namespace {

const Rig rig;
const Mesh mesh = single_mesh(rig);

Config sigmoid_config() {
  Config c = small_moe_config();
  c.model.router_score = "sigmoid";
  c.model.router_bias = true;
  c.model.router_bias_update_rate = 0.013;  // no power of two
  return c;
}

std::vector<float> bias_of(const Trainer& t, std::size_t layer) {
  return floats_of(t, t.model->weights.layers[layer].router_bias);
}

struct Form {
  const char *name, *dtype, *masters;
};
class Moves : public ::testing::TestWithParam<Form> {};

TEST_P(Moves, TowardsTheMeanLoadInWhateverFormTheMastersLie) {
  Config c = sigmoid_config();
  c.dtype = GetParam().dtype;
  c.train.master_dtype = GetParam().masters;
  const FixedSequences data = random_sequences(40, 9, c.model.vocab_size, 1);
  Trainer t = random_trainer(rig, c, mesh);
  const auto rate = static_cast<float>(c.model.router_bias_update_rate);
  for (int step = 0; step < 3; ++step) {
    const std::vector<float> before[] = {bias_of(t, 0), bias_of(t, 1)};
    const StepResult r = train_step(t, data.source());
    int moved = 0;
    for (std::size_t l = 0; l < 2; ++l) {
      const std::vector<float> after = bias_of(t, l);
      const auto& load = r.layers[l].assignments;
      EXPECT_EQ(std::accumulate(load.begin(), load.end(), std::int64_t{0}), 4 * 9 * 2);
      for (std::size_t e = 0; e < 4; ++e) {
        const std::int64_t over = 4 * load[e] - 72;
        EXPECT_EQ(after[e], over > 0 ? before[l][e] - rate : over < 0 ? before[l][e] + rate : before[l][e]);
        moved += over != 0 ? 1 : 0;
      }
    }
    EXPECT_GT(moved, 4);
  }
  for (const OwnedPiece& p : owned_pieces(t.table(), mesh.at, false)) {
    if (p.row->role != ParamRole::RouterBias) continue;
    const std::vector<float> working = bias_of(t, static_cast<std::size_t>(p.row->layer));
    EXPECT_EQ(owned_floats(t, StateKind::Master, p), working);
    EXPECT_EQ(owned_floats(t, StateKind::Moment1, p), std::vector<float>(4, 0.0f));
    for (const float g : gradient_of(t, *p.row)) EXPECT_EQ(g, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, Moves,
                         ::testing::Values(Form{"Fp32", "fp32", "fp32"}, Form{"Bf16", "bf16", "fp32"},
                                           Form{"Bf16Remainder", "bf16", "bf16_remainder"}),
                         [](const auto& info) { return std::string(info.param.name); });

// A layer that is computed again routes as before and is counted once.
TEST(RouterBias, RecomputationCountsOnce) {
  const FixedSequences data = random_sequences(40, 9, 37, 1);
  std::vector<std::vector<float>> biases;
  for (const char* recompute : {"none", "full"}) {
    Config c = sigmoid_config();
    c.train.recompute = recompute;
    Trainer t = random_trainer(rig, c, mesh);
    for (int step = 0; step < 3; ++step)
      for (const RouterMetrics& m : train_step(t, data.source()).layers)
        EXPECT_EQ(std::accumulate(m.assignments.begin(), m.assignments.end(), std::int64_t{0}), 4 * 9 * 2);
    biases.push_back(bias_of(t, 1));
  }
  EXPECT_EQ(biases[0], biases[1]);
}

TEST(RouterBias, FrozenOnesStay) {
  Config c = sigmoid_config();
  c.train.freeze = {"*.0.*e_score_correction_bias"};
  Trainer t = random_trainer(rig, c, mesh);
  const std::vector<float> before[] = {bias_of(t, 0), bias_of(t, 1)};
  (void)train_step(t, random_sequences(4, 9, 37, 1).source());
  EXPECT_EQ(bias_of(t, 0), before[0]);
  EXPECT_NE(bias_of(t, 1), before[1]);
}

// With the weights as they are, biases alone even out a skewed load.
TEST(RouterBias, EvensOutTheLoad) {
  Config c = sigmoid_config();
  c.train.lr = c.train.min_lr = 0;
  c.model.router_bias_update_rate = 0.02;
  c.train.steps = 100;
  c.train.global_batch_size = 16;
  const FixedSequences data = random_sequences(16, 9, c.model.vocab_size, 1);
  Trainer t = random_trainer(rig, c, mesh);
  const auto most = [](const StepResult& r) {
    double over = 0;
    for (const RouterMetrics& m : r.layers)
      over = std::max(over, static_cast<double>(*std::max_element(m.assignments.begin(), m.assignments.end())) / 72);
    return over;
  };
  const double first = most(train_step(t, data.source()));
  double last = 0;
  for (int step = 0; step < 60; ++step) last = most(train_step(t, data.source()));
  EXPECT_GT(first, 1.3);
  EXPECT_LT(last, 1.15);
}

// As Megatron-Core has it: with biases the loss counts the choice without them, the reported load the one made.
TEST(RouterBias, TheLossCountsTheChoiceWithoutIt) {
  const FixedSequences data = random_sequences(4, 9, 37, 1);
  std::vector<RouterMetrics> of;
  for (const bool biased : {false, true}) {
    Config c = sigmoid_config();
    c.model.router_bias = biased;
    Trainer t = random_trainer(rig, c, mesh);
    of.push_back(compute_gradients(t, data.source()).layers[0]);
  }
  EXPECT_EQ(of[0].aux, of[1].aux);
  EXPECT_EQ(of[0].z, of[1].z);
  EXPECT_NE(of[0].assignments, of[1].assignments);
}

}  // namespace
}  // namespace upcycle
