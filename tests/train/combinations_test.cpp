#include <gtest/gtest.h>

#include <map>

#include "core/config/describe.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/train/offload.h"
#include "parallel/train/snapshot.h"
#include "parallel/train/trainer_state.h"
#include "tests/data/temporary_folder.h"
#include "tests/train/rig.h"

// What makes room, together: types of gradients, masters and moments, state in host memory, snapshots in buckets.
namespace upcycle {
namespace {

const Rig rig;
const Mesh mesh = single_mesh(rig);
const FixedSequences data = random_sequences(40, 9, small_config().model.vocab_size, 5);

struct Case {
  const char *name, *optimizer, *masters;
  bool offload;
};

Config config_of(const Case& c) {
  Config config = small_moe_config();
  config.dtype = "bf16";
  config.device = rig.device->kind() == DeviceKind::Cuda ? "cuda" : "cpu";
  config.train.optimizer = c.optimizer;
  config.train.master_dtype = c.masters;
  config.train.moment_dtype = "bf16";
  config.train.gradient_dtype = "bf16";
  config.train.optimizer_offload = c.offload;
  config.train.micro_batch_size = 2;
  config.train.lr = 1e-2;
  return config;
}

Trainer train(const Config& config, int steps) {
  Trainer t = random_trainer(rig, config, mesh);
  for (int i = 0; i < steps; ++i) (void)train_step(t, data.source());
  return t;
}

class Bf16Combinations : public ::testing::TestWithParam<Case> {};

// Saved after one step, in either way, a run goes on as if it had not stopped.
TEST_P(Bf16Combinations, ResumeBitForBit) {
  const TemporaryFolder folder;
  Config config = config_of(GetParam());
  const TrainedState want = state_of(train(config, 2));
  for (const char* snapshot : {"whole", "bucket"}) {
    SCOPED_TRACE(snapshot);
    config.checkpoint.snapshot = snapshot;
    Trainer first = train(config, 1);
    const std::string run = folder.file(snapshot);
    {
      CheckpointWriter writer(run, *mesh.world, 0);
      Snapshot copies = make_snapshot(first, 100);
      CheckpointInfo info = checkpoint_info(first);
      info.config = to_json(config);
      writer.start(info, take_snapshot(first, copies), {});
      writer.finish();
    }
    Trainer second = make_trainer(config, mesh, *rig.device, *rig.stream, *rig.ops, rig.host_ops.get());
    restore_trainer(second, *open_checkpoint(run));
    expect_same_state(state_of(second), state_of(first));
    (void)train_step(second, data.source());
    expect_same_state(state_of(second), want);
  }
}

// Neither the masters' form nor where the state lies shows in the bits.
TEST_P(Bf16Combinations, HaveTheBitsOfFp32MastersBesideTheirWeights) {
  const Case plain{"", GetParam().optimizer, "fp32", false};
  const Trainer t = train(config_of(GetParam()), 2);
  EXPECT_EQ(t.optimizer.offload != nullptr, GetParam().offload && rig.device->kind() == DeviceKind::Cuda);
  expect_same_state(state_of(t), state_of(train(config_of(plain), 2)));
}

TEST_P(Bf16Combinations, TakeThePlannedMemory) {
  for (const char* snapshot : {"whole", "bucket"}) {
    Config config = config_of(GetParam());
    config.checkpoint.dir = "anywhere";
    config.checkpoint.snapshot = snapshot;
    const Trainer t = random_trainer(rig, config, mesh);
    const Snapshot copies = make_snapshot(t);
    std::map<std::string, std::size_t> taken;
    const auto count = [&](const Arena& a) { taken[a.name()] = a.capacity(); };
    for (const Arena* a : {&t.memory.parameters, &t.memory.gradients, &t.memory.optimizer, &copies.arena}) count(*a);
    if (t.optimizer.offload != nullptr) count(t.memory.host_state), count(t.optimizer.offload->buffers);
    std::size_t planned = 0;
    for (const MemoryClass& m : plan_trainer(config, mesh, *rig.ops)) {
      if (!taken.contains(m.name)) continue;
      EXPECT_EQ(m.bytes, taken[m.name]) << m.name << ", " << snapshot;
      ++planned;
    }
    EXPECT_EQ(planned, taken.size());
  }
}

INSTANTIATE_TEST_SUITE_P(All, Bf16Combinations,
                         ::testing::Values(Case{"AdamwRemainders", "adamw", "bf16_remainder", false},
                                           Case{"LionRemainders", "lion", "bf16_remainder", false},
                                           Case{"AdamwOffloaded", "adamw", "fp32", true},
                                           Case{"LionOffloaded", "lion", "fp32", true}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace upcycle
