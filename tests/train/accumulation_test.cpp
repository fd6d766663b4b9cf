#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "parallel/model/transformer.h"
#include "tests/train/rig.h"

namespace upcycle {
namespace {

const Rig rig;
const Mesh mesh = single_mesh(rig);

void expect_equal_gradients(const Trainer& a, const Trainer& b) {
  double all = 0;
  for (const ParamRow& row : a.table().rows) all += std::pow(norm(gradient_of(a, row)), 2);
  all = std::sqrt(all);
  for (const ParamRow& row : a.table().rows) {
    const std::vector<float> g0 = gradient_of(a, row), g = gradient_of(b, row);
    EXPECT_LE(distance(g, g0), allowed_distance(norm(g0), all)) << row.name;
  }
}

// Router losses belong to a microbatch: only the LM loss and, with equally many valid tokens, the z-loss are the same
// sum however a batch is cut.
class Accumulation : public ::testing::TestWithParam<bool> {
 protected:
  Config config_of(std::int64_t micro_batch_size, double z) {
    Config c = GetParam() ? small_moe_config() : small_config();
    c.model.router_aux_loss_coef = 0;
    c.model.router_z_loss_coef = z;
    c.train.micro_batch_size = micro_batch_size;
    return c;
  }
  void expect_equal(const FixedSequences& data, double z) {
    Trainer whole = random_trainer(rig, config_of(4, z), mesh);
    const StepResult want = compute_gradients(whole, data.source());
    for (const std::int64_t micro : {1, 2}) {
      Trainer cut = random_trainer(rig, config_of(micro, z), mesh);
      const StepResult got = compute_gradients(cut, data.source());
      EXPECT_NEAR(got.loss, want.loss, 1e-6 * want.loss);
      if (z > 0) {
        EXPECT_NEAR(got.z_loss, want.z_loss, 1e-5);
      }
      expect_equal_gradients(whole, cut);
    }
  }
};

TEST_P(Accumulation, AnyMicroBatchSizeGivesTheSameGradient) { expect_equal(random_sequences(4, 9, 37, 1), 0.1); }

TEST_P(Accumulation, GradientsAreSumsDividedOnceByGlobalValidTokens) {
  FixedSequences data = random_sequences(4, 9, 37, 1);
  std::fill(data.targets.begin() + 1, data.targets.begin() + 9, -1);    // one valid target,
  std::fill(data.targets.begin() + 9, data.targets.begin() + 12, -1);   // six,
  std::fill(data.targets.begin() + 18, data.targets.begin() + 27, -1);  // none, nine
  expect_equal(data, 0);
}

TEST_P(Accumulation, TheLossIsTheMeanOverValidTokens) {
  FixedSequences data = random_sequences(4, 9, 37, 1);
  for (std::size_t i = 0; i < data.targets.size(); i += 3) data.targets[i] = -1;
  Config c = config_of(4, 0);
  Trainer t = random_trainer(rig, c, mesh);
  const double loss = compute_gradients(t, data.source()).loss;
  const std::vector<float> nlls = floats_of(t, t.model->activations.head.nll);
  double sum = 0;
  for (std::size_t i = 0; i < data.targets.size(); ++i) {
    const float nll = nlls[i];
    if (data.targets[i] < 0) {
      EXPECT_EQ(nll, 0);
    }
    sum += nll;
  }
  EXPECT_NEAR(loss, sum / 24, 1e-9);
}

INSTANTIATE_TEST_SUITE_P(Models, Accumulation, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Moe" : "Dense"; });

// It has no weight, in the router losses either: the step equals, bit for bit, the one without it.
TEST(Microbatch, WithoutAValidTargetCountsForNothing) {
  for (const bool moe : {false, true}) {
    Config c = moe ? small_moe_config() : small_config();
    FixedSequences data = random_sequences(4, 9, 37, 1);
    std::fill(data.targets.begin() + 18, data.targets.end(), -1);
    Trainer both = random_trainer(rig, c, mesh);
    const StepResult got = compute_gradients(both, data.source());
    c.train.global_batch_size = 2;
    Trainer first = random_trainer(rig, c, mesh);
    const StepResult want = compute_gradients(first, data.source());
    EXPECT_EQ(got.loss, want.loss);
    EXPECT_EQ(got.aux_loss, want.aux_loss);
    EXPECT_EQ(got.z_loss, want.z_loss);
    for (const ParamRow& row : both.table().rows)
      EXPECT_TRUE(gradient_of(both, row) == gradient_of(first, row)) << row.name;
  }
}

TEST(Microbatch, AStepWithoutAnyValidTargetHasNoGradient) {
  Config c = small_moe_config();
  FixedSequences data = random_sequences(4, 9, 37, 1);
  std::fill(data.targets.begin(), data.targets.end(), -1);
  Trainer t = random_trainer(rig, c, mesh);
  const StepResult r = train_step(t, data.source());
  EXPECT_EQ(r.loss, 0);
  EXPECT_EQ(r.grad_norm, 0);
  for (const auto& [name, parameter] : state_of(t).parameters)
    for (const float w : parameter.weight) ASSERT_TRUE(std::isfinite(w)) << name;
}

TEST(MakeTrainer, ABatchThatIsNotWholeMicrobatchesIsRefused) {
  Config c = small_config();
  c.train.global_batch_size = 5;
  try {
    (void)make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
    ADD_FAILURE() << "no InputError";
  } catch (const InputError& e) {
    EXPECT_NE(
        std::string(e.what()).find(
            "train.global_batch_size: found 5, expected a multiple of train.micro_batch_size * dp = 2 * 1 = 2; use 6"),
        std::string::npos)
        << e.what();
  }
}

TEST(MakeTrainer, Zero2WithoutReplicasIsRefused) {
  for (const bool moe : {false, true}) {
    Config c = moe ? small_moe_config() : small_config();
    c.train.zero_stage = 2;
    const std::string want = moe ? "(dp = 1, edp = 1); use 1, or more ranks" : "(dp = 1); use 1, or more ranks";
    try {
      (void)make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
      ADD_FAILURE() << "no InputError";
    } catch (const InputError& e) {
      EXPECT_EQ(std::string(e.what()), "train.zero_stage: found 2, expected 1 where no parameter has replicas " + want);
    }
  }
}

}  // namespace
}  // namespace upcycle
