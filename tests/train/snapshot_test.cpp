#include "parallel/train/snapshot.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "core/config/describe.h"
#include "core/error.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/model/transformer.h"
#include "parallel/train/trainer_state.h"
#include "tests/data/temporary_folder.h"
#include "tests/train/rig.h"

// checkpoint.snapshot: a bucket at a time gives the files that the whole copy gives.
namespace upcycle {
namespace {

const Rig rig;
const Mesh mesh = single_mesh(rig);

using Hashes = std::map<std::string, std::string>;

Hashes save(Trainer& t, Snapshot& snapshot, const std::string& run, std::optional<DType> alone = {}) {
  CheckpointWriter writer(run, *mesh.world, 0);
  CheckpointInfo info = checkpoint_info(t);
  info.config = to_json(t.config);
  info.weights_alone = alone;
  if (alone) info.optimizer_steps.clear();
  writer.start(info, take_snapshot(t, snapshot, alone), {});
  writer.finish();
  Hashes hashes;
  const auto saved = open_checkpoint(alone ? run + "/" + model_folder_name(t.step) : run);
  for (const Checkpoint::FileEntry& f : saved->files()) hashes[f.name] = f.hash;
  return hashes;
}

TEST(Buckets, MakeTheFilesOfAWholeSnapshot) {
  for (const char* optimizer : {"adamw", "lion", "sgd"})
    for (const char* dtype : {"fp32", "bf16"}) {
      SCOPED_TRACE(std::string(optimizer) + " " + dtype);
      Config c = small_moe_config();
      c.dtype = dtype;
      c.train.optimizer = optimizer;
      c.train.steps = 3;
      Trainer t = random_trainer(rig, c, mesh);
      const FixedSequences data = random_sequences(8, 9, c.model.vocab_size, 1);
      for (int i = 0; i < 2; ++i) (void)train_step(t, data.source());
      const TemporaryFolder folder;
      Snapshot whole = make_snapshot(t);
      const Hashes want = save(t, whole, folder.file("whole"));
      EXPECT_EQ(want.size(), c.train.moments() > 0 ? 2u : 1u);
      t.config.checkpoint.snapshot = "bucket";
      for (const std::int64_t elements : {24, 100, 1 << 20}) {  // a row, several, all
        Snapshot buckets = make_snapshot(t, elements);
        ASSERT_EQ(buckets.buckets.size(), 2u);
        EXPECT_TRUE(buckets.states.empty());
        const std::string run = folder.file("in " + std::to_string(elements));
        EXPECT_EQ(save(t, buckets, run), want);
        for (const DType type : {DType::F32, DType::BF16})
          EXPECT_EQ(save(t, buckets, run, type), save(t, whole, folder.file("whole"), type));
      }
    }
}

// Weights alone in bf16: routers' biases stay fp32, and a model in bf16 that reads them chooses by the same bits.
TEST(Snapshot, BiasesOfRoutersAreNeverRounded) {
  Config c = small_moe_config();
  c.dtype = "bf16";
  c.model.router_score = "sigmoid";
  c.model.router_bias = true;
  c.train.steps = 3;
  Trainer t = random_trainer(rig, c, mesh);
  for (int i = 0; i < 2; ++i) (void)train_step(t, random_sequences(8, 9, c.model.vocab_size, 1).source());
  const auto bias = [](const Trainer& of) { return floats_of(of, of.model->weights.layers[1].router_bias); };
  const std::vector<float> want = bias(t);
  EXPECT_NE(to_float(to_bf16(want[0])), want[0]);
  for (const char* form : {"whole", "bucket"}) {
    const TemporaryFolder folder;
    t.config.checkpoint.snapshot = form;
    Snapshot snapshot = make_snapshot(t);
    (void)save(t, snapshot, folder.file("run"), DType::BF16);
    const auto saved = open_checkpoint(folder.file("run") + "/" + model_folder_name(t.step));
    Trainer again = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
    load_trainer_weights(again, *saved);
    EXPECT_EQ(bias(again), want) << form;
  }
}

TEST(Buckets, AreAsPlannedAndBounded) {
  Config c = small_moe_config();
  c.checkpoint.dir = "anywhere";
  const std::size_t whole = plan_trainer(c, mesh, *rig.ops).back().bytes;
  c.checkpoint.snapshot = "bucket";
  Trainer t = random_trainer(rig, c, mesh);
  const Snapshot buckets = make_snapshot(t);
  const MemoryClass planned = plan_trainer(c, mesh, *rig.ops).back();
  EXPECT_EQ(planned.name, "checkpoint snapshot");
  EXPECT_EQ(planned.bytes, buckets.arena.capacity());
  EXPECT_LT(planned.bytes, whole / 4);
  c.checkpoint.snapshot = "whole";
  c.checkpoint.max_pending = 3;  // each has a copy of its own
  EXPECT_EQ(plan_trainer(c, mesh, *rig.ops).back().bytes, 3 * whole);
  for (const std::int64_t elements : {24, 100}) {
    const std::size_t each = static_cast<std::size_t>(elements) * sizeof(float);
    EXPECT_LE(make_snapshot(t, elements).arena.capacity(), 2 * Arena::align(each));
  }
}

// What fails under way is what finish() throws; nothing is left, and the next save works.
TEST(Buckets, AFailedSaveLeavesTheStepBefore) {
  Config c = small_config();
  c.checkpoint.snapshot = "bucket";
  Trainer t = random_trainer(rig, c, mesh);
  const TemporaryFolder folder;
  const std::string run = folder.file("run");
  Snapshot buckets = make_snapshot(t, 100);
  (void)save(t, buckets, run);
  t.step = 7;
  CheckpointWriter writer(run, *mesh.world, 0);
  SavedState state = take_snapshot(t, buckets);
  int calls = 0;
  state.read = [&, read = state.read](const SavedPiece& p, std::int64_t row, std::int64_t rows, float* out) {
    if (++calls == 5) throw Error("no more of it");
    read(p, row, rows, out);
  };
  writer.start(checkpoint_info(t), std::move(state), {});
  try {
    writer.finish();
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("no more of it"), std::string::npos) << e.what();
  }
  EXPECT_EQ(open_checkpoint(run)->info().step, 0);
  EXPECT_FALSE(std::filesystem::exists(run + "/step_00000007.tmp"));
  writer.start(checkpoint_info(t), take_snapshot(t, buckets), {});
  writer.finish();
  EXPECT_EQ(open_checkpoint(run)->info().step, 7);
}

}  // namespace
}  // namespace upcycle
