#include "parallel/upcycle/live_upcycle.h"
#include "tests/data/temporary_folder.h"

#include <fmt/core.h>

#include <cmath>

#include "core/config/describe.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/model/weights.h"
#include "parallel/train/snapshot.h"
#include "parallel/train/step.h"
#include "parallel/train/trainer_state.h"
#include "parallel/upcycle/from_checkpoint.h"
#include "tests/upcycle/models.h"

namespace upcycle::test {
namespace {

constexpr std::uint64_t kSeed = 4;

struct Live : ::testing::Test {
  Rig rig;
  Mesh mesh = make_single_mesh();
  TemporaryFolder folder;
  FixedSequences data = random_sequences(16, 9, 37, 3);
  std::vector<std::int32_t> probe{1, 5, 36, 0, 7, 7, 2, 19, 30, 11};

  Config config(const char* dtype, const char* masters = "fp32", const char* moments = "fp32") {
    Config c = small_config();
    c.dtype = dtype;
    c.train.master_dtype = masters;
    c.train.moment_dtype = moments;
    c.seed = kSeed;
    c.train.schedule = "constant";
    c.train.lr = 1e-2;
    c.train.weight_decay = 0;
    return c;
  }

  Trainer trainer(const Config& c) { return make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops); }

  Trainer after_dense_steps(const Config& c, int n) {
    Trainer t = trainer(c);
    initialize_trainer(t, 8);
    for (int i = 0; i < n; ++i) (void)train_step(t, data.source());
    return t;
  }

  std::unique_ptr<Checkpoint> saved(Trainer& t, const std::string& name) {
    CheckpointWriter writer(folder.file(name), *mesh.world, 0);
    Snapshot snapshot = make_snapshot(t);
    CheckpointInfo info = checkpoint_info(t);
    info.config = to_json(t.config);
    writer.start(info, take_snapshot(t, snapshot), {});
    writer.finish();
    return open_checkpoint(folder.file(name));
  }
};

std::vector<float> values(const Tensor& t) {
  std::vector<float> v(static_cast<std::size_t>(t.size()));
  for (std::size_t i = 0; i < v.size(); ++i)
    v[i] = t.dtype == DType::BF16 ? to_float(t.as<bf16>()[i]) : t.as<float>()[i];
  return v;
}

// Types of weights, masters and moments.
const std::tuple<const char*, const char*, const char*> kForms[] = {
    {"fp32", "fp32", "fp32"}, {"bf16", "fp32", "fp32"}, {"bf16", "bf16_remainder", "bf16"}};

struct Upcycling {
  const char* name;
  UpcycleConfig upcycle;
  ModelConfig target;
};

std::vector<Upcycling> upcyclings() {
  UpcycleConfig groups{"virtual_group", "down"}, drop{"copy", "none", 0.5, 0.01};
  ModelConfig shared = experts(4, 2, 10), every = experts(4, 1, 0, "softmax_then_topk");
  shared.shared_expert = true;
  every.moe_every_n_layers = 2;
  return {{"copy", {}, experts(4, 2)},
          {"virtual_group", groups, experts(8, 4, 10)},
          {"drop_and_noise", drop, experts(4, 2)},
          {"shared_expert", groups, shared},
          {"every_second_layer", {}, every}};
}

// Live conversion and conversion from files give the same experts, and the same next step.
TEST_F(Live, IsTheRunThatAnUpcycledCheckpointStarts) {
  for (const auto& [dtype, masters, moments] : kForms) {
    const Config c = config(dtype, masters, moments);
    Trainer first = after_dense_steps(c, 3);
    const auto checkpoint = saved(first, std::string(dtype) + masters);
    for (const Upcycling& u : upcyclings()) {
      SCOPED_TRACE(fmt::format("{} {} {}", dtype, masters, u.name));
      Trainer dense = after_dense_steps(c, 3);
      Config moe = c;
      moe.upcycle = u.upcycle;
      moe.model = upcycled_model(c.model, u.target, u.upcycle, "test");
      Config plain = moe;
      plain.train.master_dtype = "fp32";  // whatever form the run has, it ends with the same numbers
      Trainer from_files = trainer(plain);
      const UpcycleReport file_report = upcycle_from_checkpoint(from_files, *checkpoint, probe);
      LiveUpcycle live = upcycle_live(std::move(dense), moe, probe);
      Trainer& t = live.trainer;

      EXPECT_EQ(live.report.change, file_report.change);
      EXPECT_EQ(live.report.exact, promises_exact(moe.model, moe.upcycle));
      EXPECT_EQ(t.step, 3);
      EXPECT_EQ(t.consumed_samples, 12);
      EXPECT_EQ(t.tokens, 3 * 4 * 9);
      EXPECT_GT(t.flops, 0);
      for (const OwnedPiece& p : owned_pieces(t.table(), mesh.at, true)) {
        EXPECT_TRUE(same_bits(values(piece_of(t.memory.weights, p)), values(piece_of(from_files.memory.weights, p))))
            << p.row->name;
        EXPECT_TRUE(same_bits(owned_floats(t, StateKind::Master, p), owned_floats(from_files, StateKind::Master, p)))
            << p.row->name;
      }

      from_files.step = t.step;
      from_files.consumed_samples = t.consumed_samples;
      const StepResult a = train_step(t, data.source()), b = train_step(from_files, data.source());
      EXPECT_EQ(a.loss, b.loss);
      EXPECT_EQ(a.grad_norm, b.grad_norm);
      EXPECT_EQ(a.aux_loss, b.aux_loss);
      EXPECT_GT(a.grad_norm, 0);
    }
  }
}

TEST_F(Live, WhatStaysKeepsItsStateAndWhatIsFreshHasNone) {
  for (const auto& [dtype, masters, moments] : kForms)
    for (const Upcycling& u : upcyclings()) {
      SCOPED_TRACE(fmt::format("{} {} {}", dtype, masters, u.name));
      Config c = config(dtype, masters, moments);
      Trainer dense = after_dense_steps(c, 3);
      std::map<std::string, std::array<std::vector<float>, 3>> before;
      for (const OwnedPiece& p : owned_pieces(dense.table(), mesh.at, true))
        before[p.row->name] = {owned_floats(dense, StateKind::Master, p), owned_floats(dense, StateKind::Moment1, p),
                               owned_floats(dense, StateKind::Moment2, p)};
      c.upcycle = u.upcycle;
      c.model = upcycled_model(c.model, u.target, u.upcycle, "test");
      Trainer t = upcycle_live(std::move(dense), c, probe).trainer;

      std::size_t kept = 0;
      for (const OwnedPiece& p : owned_pieces(t.table(), mesh.at, true)) {
        const std::string& name = p.row->name;
        const bool shared = name.find("shared_expert") != std::string::npos;
        std::string was = name;
        if (shared) was.replace(was.find("block_sparse_moe.shared_expert"), 30, "mlp");
        const bool stays = before.count(was) != 0;
        EXPECT_EQ(stays, shared || name.find("block_sparse_moe") == std::string::npos) << name;
        const std::vector<float> m = owned_floats(t, StateKind::Moment1, p), v = owned_floats(t, StateKind::Moment2, p);
        EXPECT_EQ(t.optimizer.row_steps[static_cast<std::size_t>(p.row - t.table().rows.data())], stays ? 3 : 0)
            << name;
        if (stays) {
          EXPECT_TRUE(same_bits(owned_floats(t, StateKind::Master, p), before[was][0])) << name;
          EXPECT_TRUE(same_bits(m, before[was][1])) << name;
          EXPECT_TRUE(same_bits(v, before[was][2])) << name;
          EXPECT_GT(norm(m), 0) << name;
          ++kept;
        } else {
          EXPECT_EQ(norm(m) + norm(v), 0) << name;
        }
      }
      EXPECT_GE(kept, 2u + 2 * 6) << "embedding, norm, and a layer's attention and norms";

      (void)train_step(t, data.source());
      for (std::size_t i = 0; i < t.table().rows.size(); ++i) {
        const std::string& name = t.table().rows[i].name;
        const bool fresh = name.find("experts.") != std::string::npos || name.ends_with("gate.weight");
        EXPECT_EQ(t.optimizer.row_steps[i], fresh ? 1 : 4) << name;
      }
    }
}

// AdamW's first update is lr * g / |g| when it is corrected as step 1 (with step 4's correction it would be about
// half).
TEST_F(Live, AFreshExpertsFirstUpdateIsStepOne) {
  Config c = config("fp32");
  Trainer dense = after_dense_steps(c, 3);
  c.model = upcycled_model(c.model, experts(4, 2), c.upcycle, "test");
  Trainer t = upcycle_live(std::move(dense), c, probe).trainer;
  const ParamRow& row = *t.table().find(expert_name(1, 2, "w2"));
  const std::vector<float> before = values(view_row(row, t.memory.weights.dense, t.memory.weights.expert));
  (void)train_step(t, data.source());
  const std::vector<float> after = values(view_row(row, t.memory.weights.dense, t.memory.weights.expert));
  const std::vector<float> gradient = gradient_of(t, row);
  std::size_t counted = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (std::abs(gradient[i]) < 1e-4) continue;  // eps is not negligible
    EXPECT_NEAR((before[i] - after[i]) / 1e-2, gradient[i] > 0 ? 1 : -1, 2e-3);
    ++counted;
  }
  EXPECT_GT(counted, before.size() / 4);
}

TEST_F(Live, TheFirstLossIsTheDenseModelsWhereItIsExact) {
  Config c = config("fp32");
  Trainer going_on = after_dense_steps(c, 3), dense = after_dense_steps(c, 3);
  const double want = train_step(going_on, data.source()).loss;
  Config moe = c;
  moe.upcycle = {"virtual_group", "down"};
  moe.model = upcycled_model(c.model, experts(8, 2, 10), moe.upcycle, "test");
  LiveUpcycle live = upcycle_live(std::move(dense), moe, probe);
  EXPECT_TRUE(live.report.exact);
  EXPECT_LE(live.report.change, 1e-5);
  EXPECT_NEAR(train_step(live.trainer, data.source()).loss, want, 1e-5);
}

TEST_F(Live, WorksWithFewerMomentsAndFromTheFirstStepOn) {
  Config c = config("fp32");
  for (const auto& [optimizer, steps] : {std::pair{"sgd", 0}, {"sgd", 2}, {"lion", 0}, {"lion", 2}}) {
    c.train.optimizer = optimizer;
    Trainer dense = after_dense_steps(c, steps);
    Config moe = c;
    moe.model = upcycled_model(c.model, experts(4, 2), c.upcycle, "test");
    Trainer t = upcycle_live(std::move(dense), moe, probe).trainer;
    EXPECT_EQ(t.step, steps);
    const double first = train_step(t, data.source()).loss;
    double last = first;
    for (int i = 0; i < 3; ++i) last = train_step(t, data.source()).loss;
    EXPECT_TRUE(std::isfinite(last));
  }
}

TEST_F(Live, TheTwinsStayEqualForManySteps) {
  Config c = config("bf16");
  Trainer dense = after_dense_steps(c, 2), again = after_dense_steps(c, 2);
  c.upcycle.drop_ratio = 0.5;
  c.model = upcycled_model(c.model, experts(4, 2), c.upcycle, "test");
  Trainer a = upcycle_live(std::move(dense), c, probe).trainer;
  Trainer b = upcycle_live(std::move(again), c, probe).trainer;
  const auto middle = saved(b, "middle");
  Trainer resumed = trainer(c);
  restore_trainer(resumed, *middle);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(train_step(a, data.source()).loss, train_step(resumed, data.source()).loss);
}

}  // namespace
}  // namespace upcycle::test
