#include <gtest/gtest.h>

#include "core/config/describe.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/model/transformer.h"
#include "parallel/train/snapshot.h"
#include "parallel/train/trainer_state.h"
#include "parallel/upcycle/live_upcycle.h"
#include "parallel/upcycle/rules.h"
#include "tests/core/input_error.h"
#include "tests/data/temporary_folder.h"
#include "tests/train/rig.h"

// 20 steps equal 10 + save + load + 10, bit for bit, through the files.
namespace upcycle {
namespace {

const Rig rig;
const Mesh mesh = single_mesh(rig);

void save(Trainer& t, const std::string& run) {
  CheckpointWriter writer(run, *mesh.world, 0);
  Snapshot snapshot = make_snapshot(t);
  CheckpointInfo info = checkpoint_info(t);
  info.config = to_json(t.config);
  writer.start(info, take_snapshot(t, snapshot), {});
  (void)train_step(t, random_sequences(4, t.config.train.seq_length, 37, 99).source());  // must not reach the files
  writer.finish();
}

Trainer resume(const Config& config, const std::string& run) {
  Trainer t = make_trainer(config, mesh, *rig.device, *rig.stream, *rig.ops);
  restore_trainer(t, *open_checkpoint(run));
  return t;
}

struct Case {
  const char* name;
  bool moe;
  const char* dtype;
  const char* optimizer;
  const char* masters = "fp32";
  const char* moments = "fp32";
  bool sigmoid = false;  // with biases
};

class Resume : public ::testing::TestWithParam<Case> {};

TEST_P(Resume, TwentyStepsAreTenSavedLoadedAndTen) {
  const TemporaryFolder folder;
  Config c = GetParam().moe ? small_moe_config() : small_config();
  c.dtype = GetParam().dtype;
  c.train.optimizer = GetParam().optimizer;
  c.train.master_dtype = GetParam().masters;
  c.train.moment_dtype = GetParam().moments;
  c.train.steps = 20;
  c.train.warmup_steps = 3;
  c.model.shared_expert = GetParam().moe;
  c.model.moe_every_n_layers = 2;
  if (GetParam().sigmoid) c.model.router_score = "sigmoid", c.model.router_bias = true;
  c.train.freeze = {"model.layers.0.self_attn.?_proj.weight"};
  const FixedSequences data = random_sequences(100, 9, c.model.vocab_size, 1);
  Trainer straight = random_trainer(rig, c, mesh);
  std::vector<double> losses;
  while (straight.step < 20) losses.push_back(train_step(straight, data.source()).loss);

  Trainer first = random_trainer(rig, c, mesh);
  while (first.step < 10) (void)train_step(first, data.source());
  const TrainedState saved = state_of(first);
  save(first, folder.file("run"));
  Trainer second = resume(c, folder.file("run"));
  expect_same_state(saved, state_of(second));
  while (second.step < 20) {
    const auto step = static_cast<std::size_t>(second.step);
    EXPECT_EQ(train_step(second, data.source()).loss, losses[step]);
  }
  expect_same_state(state_of(straight), state_of(second));
}

INSTANTIATE_TEST_SUITE_P(
    Runs, Resume,
    ::testing::Values(Case{"DenseFp32Adamw", false, "fp32", "adamw"}, Case{"DenseBf16Adamw", false, "bf16", "adamw"},
                      Case{"DenseFp32Lion", false, "fp32", "lion"}, Case{"DenseBf16Lion", false, "bf16", "lion"},
                      Case{"MoeFp32Lion", true, "fp32", "lion"}, Case{"MoeBf16Lion", true, "bf16", "lion"},
                      Case{"DenseFp32Sgd", false, "fp32", "sgd"}, Case{"DenseBf16Sgd", false, "bf16", "sgd"},
                      Case{"MoeFp32Adamw", true, "fp32", "adamw"}, Case{"MoeBf16Adamw", true, "bf16", "adamw"},
                      Case{"MoeBf16AdamwRemainders", true, "bf16", "adamw", "bf16_remainder"},
                      Case{"MoeBf16LionRemaindersRoundedMoments", true, "bf16", "lion", "bf16_remainder", "bf16"},
                      Case{"DenseFp32AdamwRoundedMoments", false, "fp32", "adamw", "fp32", "bf16"},
                      Case{"DenseBf16LionRemainders", false, "bf16", "lion", "bf16_remainder"},
                      Case{"SigmoidFp32Adamw", true, "fp32", "adamw", "fp32", "fp32", true},
                      Case{"SigmoidBf16Adamw", true, "bf16", "adamw", "fp32", "fp32", true},
                      Case{"SigmoidBf16LionRemainders", true, "bf16", "lion", "bf16_remainder", "bf16", true},
                      Case{"MoeFp32Sgd", true, "fp32", "sgd"}, Case{"MoeBf16Sgd", true, "bf16", "sgd"}),
    [](const auto& info) { return std::string(info.param.name); });

// A run that was converted in place resumes as the MoE it became: old and new parameters keep their own step counts.
TEST(Resume, AfterALiveConversion) {
  const TemporaryFolder folder;
  Config dense = small_config(), moe = small_moe_config();
  dense.dtype = moe.dtype = "bf16";
  moe.model.moe_intermediate_size = 0;
  dense.train.steps = moe.train.steps = 20;
  moe.upcycle.router_std = 0.5;
  moe.model = upcycled_model(dense.model, moe.model, moe.upcycle, "the test");
  const FixedSequences data = random_sequences(100, 9, dense.model.vocab_size, 1);
  const auto converted = [&] {
    Trainer t = random_trainer(rig, dense, mesh);
    while (t.step < 4) (void)train_step(t, data.source());
    return upcycle_live(std::move(t), moe, std::span(data.tokens).first(9)).trainer;
  };
  Trainer straight = converted(), first = converted();
  while (straight.step < 12) (void)train_step(straight, data.source());
  while (first.step < 8) (void)train_step(first, data.source());
  save(first, folder.file("run"));
  Trainer second = resume(moe, folder.file("run"));
  const TrainedState state = state_of(second);
  EXPECT_EQ(state.step, 8);
  EXPECT_EQ(state.parameters.at("model.norm.weight").steps, 8);
  EXPECT_EQ(state.parameters.at("model.layers.1.block_sparse_moe.gate.weight").steps, 4);
  EXPECT_EQ(state.parameters.at("model.layers.0.block_sparse_moe.experts.2.w3.weight").steps, 4);
  while (second.step < 12) (void)train_step(second, data.source());
  expect_same_state(state_of(straight), state_of(second));
}

// Another optimizer may go on where its moments are there; where one is missing it is refused.
TEST(Resume, WithoutTheOptimizersMomentsIsRefused) {
  const FixedSequences data = random_sequences(8, 9, 37, 1);
  const std::vector<std::string> optimizers = {"sgd", "lion", "adamw"};  // 0, 1, 2 moments
  for (std::size_t was = 0; was < 3; ++was) {
    const TemporaryFolder folder;
    Config c = small_config();
    c.train.optimizer = optimizers[was];
    Trainer t = random_trainer(rig, c, mesh);
    (void)train_step(t, data.source());
    const TrainedState saved = state_of(t);
    save(t, folder.file("run"));
    EXPECT_EQ(open_checkpoint(folder.file("run"))->moments(), was);
    for (std::size_t now = 0; now < 3; ++now) {
      c.train.optimizer = optimizers[now];
      if (now > was) {
        const std::string message = input_error_of([&] { (void)resume(c, folder.file("run")); });
        EXPECT_TRUE(contains(message, fmt::format("holds {} of the {} moments that train.optimizer = {} keeps", was,
                                                  now, optimizers[now])))
            << message;
        EXPECT_TRUE(contains(message, folder.file("run")));
        continue;
      }
      for (const auto& [name, p] : state_of(resume(c, folder.file("run"))).parameters) {
        const TrainedState::Parameter& from = saved.parameters.at(name);
        EXPECT_TRUE(p.master == from.master && p.steps == from.steps) << name;
        EXPECT_TRUE(p.m == (now > 0 ? from.m : std::vector<float>{})) << name;
        EXPECT_TRUE(p.v == (now > 1 ? from.v : std::vector<float>{})) << name;
      }
    }
  }
}

// Weights only: masters exact in fp32, working weights their rounding, moments and counts fresh.
TEST(LoadTrainerWeights, MastersExactAndWeightsRounded) {
  const TemporaryFolder folder;
  Config c = small_moe_config();
  Trainer t = random_trainer(rig, c, mesh);
  const FixedSequences data = random_sequences(8, 9, c.model.vocab_size, 1);
  for (int i = 0; i < 2; ++i) (void)train_step(t, data.source());
  const TrainedState from = state_of(t);
  save(t, folder.file("run"));
  for (const char* dtype : {"fp32", "bf16"}) {
    c.dtype = dtype;
    Trainer fresh = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
    load_trainer_weights(fresh, *open_checkpoint(folder.file("run")));
    EXPECT_EQ(fresh.step, 0);
    bool rounded = false;
    for (const auto& [name, parameter] : state_of(fresh).parameters) {
      const std::vector<float>& master = from.parameters.at(name).master;
      EXPECT_TRUE(parameter.master == master) << name;
      EXPECT_EQ(parameter.steps, 0);
      EXPECT_EQ(norm(parameter.m), 0);
      for (std::size_t i = 0; i < master.size(); ++i) {
        const float expected = c.storage() == DType::BF16 ? to_float(to_bf16(master[i])) : master[i];
        ASSERT_EQ(parameter.weight[i], expected) << name;
        rounded = rounded || expected != master[i];
      }
    }
    EXPECT_EQ(rounded, c.storage() == DType::BF16);
  }
}

// The snapshot allocates once, as much as the plan says.
TEST(Snapshot, IsAsLargeAsPlanned) {
  for (const auto& [optimizer, moments, masters, moment] : {std::tuple{"adamw", 2, "fp32", "fp32"},
                                                            {"lion", 1, "fp32", "bf16"},
                                                            {"sgd", 0, "fp32", "fp32"},
                                                            {"adamw", 2, "bf16_remainder", "bf16"}}) {
    Config c = small_moe_config();
    c.dtype = "bf16";
    c.train.optimizer = optimizer;
    c.train.master_dtype = masters;
    c.train.moment_dtype = moment;
    Trainer t = random_trainer(rig, c, mesh);
    Snapshot s = make_snapshot(t);
    const std::uint64_t allocations = device_allocation_count();
    const std::vector<SavedPiece> pieces = take_snapshot(t, s).pieces;
    EXPECT_EQ(device_allocation_count(), allocations);
    EXPECT_EQ(pieces.size(), s.pieces.size() * (1 + static_cast<std::size_t>(moments)));
    EXPECT_EQ(s.arena.capacity(), plan_snapshot(t.table(), mesh.at, t.config));
    EXPECT_EQ(s.arena.high_water(), s.arena.capacity());
  }
}

}  // namespace
}  // namespace upcycle
