#include <fmt/core.h>

#include <cmath>

#include "core/config/describe.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/train/snapshot.h"
#include "parallel/train/step.h"
#include "parallel/train/trainer_state.h"
#include "parallel/upcycle/dense_statistics.h"
#include "parallel/upcycle/from_checkpoint.h"
#include "parallel/upcycle/live_upcycle.h"
#include "tests/data/expect_input_error.h"
#include "tests/mpi_tests.h"
#include "tests/shared_folder.h"
#include "tests/upcycle/models.h"

namespace upcycle::test {
namespace {

const std::vector<std::int32_t> kProbe{1, 5, 36, 0, 7, 7, 2, 19, 30, 11};

struct Ranks : ::testing::Test {
  Rig rig;
  FixedSequences data = random_sequences(16, 9, 37, 3);

  Config config(const char* dtype) {
    Config c = small_config();
    c.dtype = dtype;
    c.train.schedule = "constant";
    c.train.lr = 1e-2;
    c.train.micro_batch_size = 1;  // dp up to 8
    c.train.global_batch_size = 8;
    return c;
  }

  Trainer dense(const Config& c, const Mesh& mesh, int steps) {
    Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
    initialize_trainer(t, 8);
    for (int i = 0; i < steps; ++i) (void)train_step(t, data.source());
    return t;
  }

  std::unique_ptr<Checkpoint> saved(Trainer& t, const std::string& dir) {
    CheckpointWriter writer(dir, *t.mesh->world, 0);
    Snapshot snapshot = make_snapshot(t);
    CheckpointInfo info = checkpoint_info(t);
    info.config = to_json(t.config);
    writer.start(info, take_snapshot(t, snapshot), {});
    writer.finish();
    return open_checkpoint(dir, true, t.mesh->world.get());
  }
};

std::vector<float> state(Checkpoint& c, StateKind kind, const std::string& name) {
  const ParamTable table = make_global_table(c.model());
  const ParamRow& row = *table.find(name);
  std::vector<float> values(static_cast<std::size_t>(row.global_size()));
  c.read_state(kind, name, {0, 0, row.rows, row.columns}, values.data());
  return values;
}

// Masters and moments move from their dense owner to the owner in the MoE's flat ranges: compared as a whole, in
// checkpoints from before and after.
TEST_F(Ranks, LiveConversionOverDataParallelRanks) {
  const Mesh mesh = make_test_mesh(*rig.device, *rig.stream);
  SharedFolder folder(*mesh.world);
  for (const char* dtype : {"fp32", "bf16"}) {
    Config c = config(dtype);
    if (c.dtype == "bf16") c.train.zero_stage = 2, c.train.gradient_dtype = "bf16";
    Trainer t = dense(c, mesh, 3);
    const auto before = saved(t, fmt::format("{}/{}_dense", folder.path, dtype));
    c.upcycle = {"virtual_group", "down", 0.25, 0.01};
    c.model = upcycled_model(c.model, experts(8, 4, 10), c.upcycle, "test");
    Trainer from_files = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
    (void)upcycle_from_checkpoint(from_files, *before, kProbe);
    LiveUpcycle live = upcycle_live(std::move(t), c, kProbe);
    const auto after = saved(live.trainer, fmt::format("{}/{}_moe", folder.path, dtype));

    const auto whole = make_upcycled_source(*before, c.model, c.upcycle, static_cast<std::uint64_t>(c.seed));
    for (const ParamRow& row : make_global_table(c.model).rows) {
      EXPECT_TRUE(same_bits(state(*after, StateKind::Master, row.name), read(*whole, row.name))) << row.name;
      for (const StateKind kind : {StateKind::Moment1, StateKind::Moment2}) {
        const std::vector<float> moment = state(*after, kind, row.name);
        if (before->has(row.name))
          EXPECT_TRUE(same_bits(moment, state(*before, kind, row.name))) << row.name;
        else
          EXPECT_EQ(norm(moment), 0) << row.name;
      }
      EXPECT_EQ(after->info().optimizer_steps.at(row.name), before->has(row.name) ? 3 : 0) << row.name;
    }

    from_files.step = live.trainer.step;
    from_files.consumed_samples = live.trainer.consumed_samples;
    const double loss = train_step(live.trainer, data.source()).loss;
    EXPECT_EQ(loss, train_step(from_files, data.source()).loss);
    EXPECT_EQ(loss, mesh.world->max_of(loss));
    check_replicas(live.trainer.optimizer, live.trainer.memory);
  }
}

// tp ranks upcycle from a checkpoint: each reads its slices, and the change is that of the whole vocabulary.
TEST_F(Ranks, FromACheckpointOverTensorParallelRanks) {
  const Mesh mesh = make_test_mesh(*rig.device, *rig.stream, 2);
  Config c = config("fp32");
  c.parallel.tp = 2;
  c.train.seq_length = 10;
  DrawnModel source(c.model, 5);
  for (const char* scale : {"down", "none"}) {
    c.upcycle = {"virtual_group", scale};
    c.model = upcycled_model(source.model(), experts(4, 2, 10), c.upcycle, "test");
    Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
    const UpcycleReport report = upcycle_from_checkpoint(t, source, kProbe);

    const Mesh one = single_mesh(rig);
    Config alone = c;
    alone.parallel.tp = 1;
    Trainer single = make_trainer(alone, one, *rig.device, *rig.stream, *rig.ops);
    const UpcycleReport want = upcycle_from_checkpoint(single, source, kProbe);
    EXPECT_NEAR(report.change, want.change, 1e-6 + 1e-4 * want.change);
    EXPECT_EQ(report.exact, std::string(scale) == "down");
    EXPECT_EQ(report.exact, report.change <= 1e-5);
  }
}

// Each rank reads its share of a matrix; an error that one finds is reported by all.
TEST_F(Ranks, ANotANumberThatOneRankReadsIsRefusedByAll) {
  struct Broken final : TensorSource {
    DrawnModel good{dense_model(), 5};
    const std::string& name() const override { return good.name(); }
    const ModelConfig& model() const override { return good.model(); }
    bool has(const std::string& t) const override { return good.has(t); }
    void read(const std::string& t, const Rectangle& part, float* out) override {
      good.read(t, part, out);
      const Rectangle whole = make_global_table(good.model()).find(t)->part;
      if (t == "model.layers.1.mlp.up_proj.weight" && part.row + part.rows == whole.rows) out[part.size() - 1] = NAN;
    }
  } broken;
  const Mesh mesh = make_test_mesh(*rig.device, *rig.stream);
  const ModelConfig moe = upcycled_model(dense_model(), experts(4, 2), {}, "test");
  expect_input_error([&] { (void)file_statistics(broken, moe, *mesh.world, *rig.device, *rig.stream); },
                     {"a drawn model", "model.layers.1.mlp.up_proj.weight", "nan"});
}

// A rank's experts may be smaller than the dense slices for which the logits are computed first.
TEST_F(Ranks, FromACheckpointWithFewSmallExpertsARank) {
  const Mesh mesh = make_test_mesh(*rig.device, *rig.stream, 1, 2);
  Config c = config("fp32");
  c.parallel.ep = 2;
  DrawnModel source(c.model, 5);
  c.upcycle = {"virtual_group", "down"};
  c.model = upcycled_model(source.model(), experts(4, 4, 5), c.upcycle, "test");
  Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
  const ParamTable dense = make_param_table(source.model(), mesh.layout, mesh.at);
  ASSERT_GT(static_cast<std::size_t>(dense.dense.size) * sizeof(float), t.memory.gradients.capacity());
  const UpcycleReport report = upcycle_from_checkpoint(t, source, kProbe);
  EXPECT_TRUE(report.exact);
  EXPECT_LE(report.change, 1e-5);
}

TEST_F(Ranks, LiveConversionToExpertParallelRanks) {
  const Mesh mesh = make_test_mesh(*rig.device, *rig.stream, 1, 2);
  Config c = config("fp32");
  Trainer t = dense(c, mesh, 2);
  c.model = upcycled_model(c.model, experts(4, 2), c.upcycle, "test");
  LiveUpcycle live = upcycle_live(std::move(t), c, kProbe);
  EXPECT_LE(live.report.change, 1e-5);
  const double loss = train_step(live.trainer, data.source()).loss;

  const Mesh one = single_mesh(rig);
  Config alone = config("fp32");
  Trainer single = dense(alone, one, 2);
  alone.model = c.model;
  LiveUpcycle want = upcycle_live(std::move(single), alone, kProbe);
  EXPECT_NEAR(loss, train_step(want.trainer, data.source()).loss, 1e-5 * loss);
}

}  // namespace
}  // namespace upcycle::test
