#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "parallel/model/weights.h"
#include "tests/train/rig.h"

namespace upcycle {
namespace {

// A step whose numbers are not finite changes nothing that a checkpoint holds but the data position.
TEST(Divergence, TheStateIsThatBeforeTheStep) {
  const Rig rig;
  const Mesh mesh = single_mesh(rig);
  Config c = small_moe_config();
  c.train.steps = 20;
  const FixedSequences data = random_sequences(100, 9, c.model.vocab_size, 1);
  Trainer t = random_trainer(rig, c, mesh);
  for (int i = 0; i < 3; ++i) (void)train_step(t, data.source());
  const TrainedState before = state_of(t);
  const auto& rows = t.table().rows;
  const auto row = std::ranges::find(rows, std::string("model.norm.weight"), &ParamRow::name);
  ASSERT_NE(row, rows.end());
  const Tensor norm = view_row(*row, t.memory.weights.dense, t.memory.weights.expert);
  const std::vector<float> weights = floats_of(t, norm);
  std::vector<float> bad = weights;
  bad[5] = std::numeric_limits<float>::infinity();
  set_floats(t, norm, bad);
  EXPECT_EQ(train_step(t, data.source()).skipped, Skipped::NotFinite);
  set_floats(t, norm, weights);
  EXPECT_EQ(t.consumed_samples, before.consumed_samples + c.train.global_batch_size);
  t.consumed_samples = before.consumed_samples;
  expect_same_state(before, state_of(t));
  // And training continues as if it had not happened.
  Trainer straight = random_trainer(rig, c, mesh);
  while (straight.step < 5) (void)train_step(straight, data.source());
  while (t.step < 5) (void)train_step(t, data.source());
  expect_same_state(state_of(straight), state_of(t));
}

}  // namespace
}  // namespace upcycle
