#include <gtest/gtest.h>

#include "core/config/describe.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/train/snapshot.h"
#include "parallel/train/trainer_state.h"
#include "tests/data/temporary_folder.h"
#include "tests/mpi_tests.h"
#include "tests/shared_folder.h"
#include "tests/train/rig.h"
#include "tests/train_mpi/pieces.h"

namespace upcycle::test {
namespace {

struct Case {
  const char* name;
  bool moe;
  int tp;
  const char* dtype = "fp32";
  const char* optimizer = "adamw";
  std::int64_t zero_stage = 1;
  const char* gradient_dtype = "fp32";
  const char *masters = "fp32", *moments = "fp32", *snapshot = "whole";
};

void save(Trainer& t, const std::string& run) {
  CheckpointWriter writer(run, *t.mesh->world, 0);
  Snapshot snapshot = make_snapshot(t);
  CheckpointInfo info = checkpoint_info(t);
  info.config = to_json(t.config);
  writer.start(info, take_snapshot(t, snapshot), {});
  writer.finish();
}

class ResumeOverRanks : public ::testing::TestWithParam<Case> {
 protected:
  Rig rig;
  Mesh mesh = make_test_mesh(*rig.device, *rig.stream, GetParam().tp), single = single_mesh(rig);
  SharedFolder folder{*mesh.world};
  Config config = [] {
    Config c = GetParam().moe ? small_moe_config() : small_config();
    c.dtype = GetParam().dtype;
    c.train.optimizer = GetParam().optimizer;
    c.train.master_dtype = GetParam().masters;
    c.train.moment_dtype = GetParam().moments;
    c.checkpoint.snapshot = GetParam().snapshot;
    c.train.seq_length = 8;
    c.train.global_batch_size = 8;
    return c;
  }();
  // Of two ranks, and of one, which has no replicas; checkpoints do not differ.
  Config shared = [this] {
    Config c = config;
    c.train.zero_stage = GetParam().zero_stage;
    c.train.gradient_dtype = GetParam().gradient_dtype;
    return c;
  }();
  FixedSequences data = random_sequences(40, 8, config.model.vocab_size, 9);
};

TEST_P(ResumeOverRanks, ABucketAtATimeGivesTheSameFiles) {
  Trainer t = random_trainer(rig, config, mesh);
  (void)train_step(t, data.source());
  t.config.checkpoint.snapshot = "whole";
  save(t, folder.path + "/whole");
  t.config.checkpoint.snapshot = "bucket";
  save(t, folder.path + "/buckets");
  const auto whole = open_checkpoint(folder.path + "/whole"), buckets = open_checkpoint(folder.path + "/buckets");
  ASSERT_EQ(whole->files().size(), buckets->files().size());
  for (std::size_t i = 0; i < whole->files().size(); ++i) {
    EXPECT_EQ(buckets->files()[i].name, whole->files()[i].name);
    EXPECT_EQ(buckets->files()[i].hash, whole->files()[i].hash) << whole->files()[i].name;
  }
}

TEST_P(ResumeOverRanks, TwoRanksGoOnAsOne) {
  Trainer t = random_trainer(rig, shared, mesh);
  for (int i = 0; i < 3; ++i) (void)train_step(t, data.source());
  save(t, folder.path + "/run");
  Trainer one = make_trainer(config, single, *rig.device, *rig.stream, *rig.ops);
  restore_trainer(one, *open_checkpoint(folder.path + "/run", true, mesh.world.get()));
  expect_pieces_of(t, one);
  if (config.dtype != "fp32") return;  // in bf16 each layout rounds its sums at different places
  for (int i = 0; i < 2; ++i) {
    const double want = train_step(t, data.source()).loss;
    EXPECT_NEAR(train_step(one, data.source()).loss, want, 1e-5 * want);
  }
}

TEST_P(ResumeOverRanks, OneRankGoesOnAsTwo) {
  Trainer one = random_trainer(rig, config, single);
  for (int i = 0; i < 3; ++i) (void)train_step(one, data.source());
  if (mesh.rank == 0) save(one, folder.path + "/run");
  mesh.world->barrier();
  Trainer t = make_trainer(shared, mesh, *rig.device, *rig.stream, *rig.ops);
  restore_trainer(t, *open_checkpoint(folder.path + "/run", true, mesh.world.get()));
  expect_pieces_of(t, one);
  check_replicas(t.optimizer, t.memory);
}

TEST_P(ResumeOverRanks, SameLayoutIsBitwiseTheSameRun) {
  Trainer straight = random_trainer(rig, shared, mesh), broken = random_trainer(rig, shared, mesh);
  for (int i = 0; i < 6; ++i) (void)train_step(straight, data.source());
  for (int i = 0; i < 3; ++i) (void)train_step(broken, data.source());
  save(broken, folder.path + "/run");
  Trainer resumed = make_trainer(shared, mesh, *rig.device, *rig.stream, *rig.ops);
  restore_trainer(resumed, *open_checkpoint(folder.path + "/run", true, mesh.world.get()));
  for (int i = 0; i < 3; ++i) (void)train_step(resumed, data.source());
  expect_same_state(state_of(straight), state_of(resumed));
}

INSTANTIATE_TEST_SUITE_P(
    TwoRanks, ResumeOverRanks,
    ::testing::Values(Case{"DenseDp", false, 1}, Case{"DenseTp", false, 2}, Case{"MoeDp", true, 1},
                      Case{"MoeTp", true, 2}, Case{"MoeTpBf16", true, 2, "bf16"},
                      Case{"MoeDpLionBf16", true, 1, "bf16", "lion"}, Case{"MoeTpLion", true, 2, "fp32", "lion"},
                      Case{"DenseDpZero2", false, 1, "fp32", "adamw", 2},
                      Case{"MoeTpZero2Bf16", true, 2, "bf16", "adamw", 2},
                      Case{"MoeDpBf16Gradients", true, 1, "bf16", "adamw", 1, "bf16"},
                      Case{"MoeTpZero2Bf16Gradients", true, 2, "bf16", "lion", 2, "bf16"},
                      Case{"MoeDpZero2Bf16Everything", true, 1, "bf16", "adamw", 2, "bf16", "bf16_remainder", "bf16"},
                      Case{"MoeTpZero2Bf16EverythingInBuckets", true, 2, "bf16", "lion", 2, "bf16", "bf16_remainder",
                           "bf16", "bucket"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace upcycle::test
