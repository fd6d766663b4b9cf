#include "parallel/train/loss_window.h"

#include <gtest/gtest.h>

#include <cmath>

#include "parallel/model/weights.h"
#include "tests/train/rig.h"

namespace upcycle {
namespace {

TEST(LossWindow, IsTheZScoreOfTheLastLosses) {
  std::vector<double> window;
  for (const double x : {100.0, 2.0, 4.0, 4.0, 6.0}) {
    EXPECT_EQ(loss_z_score(window, 4, 7), -INFINITY) << window.size();
    accept_loss(window, 4, x);
    if (window.size() == 4) break;
  }
  accept_loss(window, 4, 6);  // the first is too old now
  EXPECT_EQ(window, (std::vector<double>{2, 4, 4, 6}));
  EXPECT_DOUBLE_EQ(loss_z_score(window, 4, 8), 4 / std::sqrt(8.0 / 3));
  EXPECT_DOUBLE_EQ(loss_z_score(window, 3, 8), (8 - 14.0 / 3) / std::sqrt(4.0 / 3));  // of more the newest
  EXPECT_EQ(loss_z_score({3, 3, 3}, 3, 4), -INFINITY);
  accept_loss(window, 2, 5);
  EXPECT_EQ(window, (std::vector<double>{6, 5}));
}

// A step whose loss jumps up, here because its logits are eight times as large, is skipped, and the run goes on as
// without its sequences. Its loss does not join those that the next is judged by.
TEST(LossWindow, ASpikeIsSkippedAndLeavesNoTrace) {
  const Rig rig;
  const Mesh mesh = single_mesh(rig);
  Config c = small_config();
  c.train.steps = 40;
  c.train.max_loss_z_score = 8;
  c.train.loss_window = 6;
  const FixedSequences data = random_sequences(100, 9, c.model.vocab_size, 1);
  const std::int64_t batch = c.train.global_batch_size, bad = 9;
  Trainer t = random_trainer(rig, c, mesh), clean = random_trainer(rig, c, mesh);
  const Tensor norm = view_row(*t.table().find("model.norm.weight"), t.memory.weights.dense, t.memory.weights.expert);
  for (std::int64_t i = 0; i < 14; ++i) {
    const auto before = t.skips.losses;
    const std::vector<float> weights = floats_of(t, norm);
    std::vector<float> large = weights;
    for (float& w : large) w *= 8;
    if (i == bad) set_floats(t, norm, large);
    const StepResult r = train_step(t, data.source());
    if (i == bad) set_floats(t, norm, weights);
    ASSERT_TRUE(r.skipped == (i == bad ? Skipped::LossSpike : Skipped::No)) << i << ": " << r.loss << ", " << r.z_score;
    if (i == bad) {
      EXPECT_GT(r.z_score, 8);
      EXPECT_EQ(t.skips.losses, before);
      EXPECT_EQ(t.skips.in_a_row, 1);
      continue;
    }
    EXPECT_EQ(t.skips.in_a_row, 0);
    const auto later = [&](std::int64_t index, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
      data.source()(index / batch >= bad ? index + batch : index, tokens, targets);
    };
    EXPECT_EQ(train_step(clean, later).loss, r.loss);
  }
  EXPECT_EQ(t.consumed_samples, clean.consumed_samples + batch);
  t.consumed_samples -= batch;
  expect_same_state(state_of(t), state_of(clean));
}

}  // namespace
}  // namespace upcycle
