#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/config/describe.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/train/snapshot.h"
#include "parallel/train/step.h"
#include "parallel/train/trainer_state.h"
#include "parallel/upcycle/from_checkpoint.h"
#include "parallel/upcycle/live_upcycle.h"
#include "tests/cuda_host/ranks/schedule.h"
#include "tests/cuda_host/ranks/whole_state.h"
#include "tests/parity_mpi/parity.h"
#include "tests/shared_folder.h"
#include "tests/upcycle/models.h"

// Upcycling in place and checkpoints on ranks with a GPU each, against the CPU backend: bits where nothing but copies,
// draws and one rounding make them, the measure of expect_parity where products do.
namespace upcycle::test {
namespace {

const std::vector<std::int32_t> kProbe{1, 5, 36, 0, 7, 7, 2, 19, 30, 11, 4, 8};

Config dense_config(const char* dtype) {
  Config c = small_config();
  c.dtype = dtype;
  c.model.intermediate_size = 40;
  c.train.seq_length = 12;
  c.train.micro_batch_size = 1;
  c.train.global_batch_size = 4;
  c.train.schedule = "constant";
  c.train.lr = 1e-2;
  c.parallel.imbalance_factor = 8;
  return c;
}

struct Way {
  const char* name;
  UpcycleConfig upcycle;
  std::int64_t E, k, moe_F;
};
std::vector<Way> ways() {
  return {{"copies", {}, 4, 2, 0},
          {"groups with noise", {"virtual_group", "down", 0, 0.01}, 8, 4, 20},
          {"copies with drop and noise", {"copy", "none", 0.3, 0.01}, 4, 2, 0}};
}

std::vector<Parallelism> layouts() {
  switch (mpi_session().size()) {
    case 1:
      return {{}};
    case 2:
      return {{1, 2, 1}, {2, 2, 1}, {2, 1, 2}};
    default:
      return {{1, 4, 1}, {2, 2, 2}, {2, 4, 1}};
  }
}

struct GpuUpcycling : ::testing::Test {
  Rig gpu, cpu = cpu_rig();
  SharedFolder folder{host_world()};
  FixedSequences data = random_sequences(32, 12, 37, 3);

  // What follows does not depend on where a GPU's masters and moments lie.
  static Config offloaded(Config c, bool offload) {
    if (offload) c.device = "cuda", c.train.optimizer_offload = true;
    return c;
  }

  Trainer trainer(const Rig& rig, Config c, const Mesh& mesh) {
    c.parallel.tp = mesh.layout.tp, c.parallel.ep = mesh.layout.ep, c.parallel.etp = mesh.layout.etp;
    return make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops, rig.host_ops.get());
  }

  std::unique_ptr<Checkpoint> saved(Trainer& t, const std::string& name) {
    CheckpointWriter writer(folder.path + "/" + name, host_world(), 0);
    Snapshot snapshot = make_snapshot(t);
    CheckpointInfo info = checkpoint_info(t);
    info.config = to_json(t.config);
    writer.start(info, take_snapshot(t, snapshot), {});
    writer.finish();
    return open_checkpoint(folder.path + "/" + name, true, &host_world());
  }

  // A dense run some steps old.
  Trainer trained(const Rig& rig, const Config& c, const Mesh& mesh, int steps) {
    Trainer t = trainer(rig, c, mesh);
    initialize_trainer(t, 8);
    for (int i = 0; i < steps; ++i) (void)train_step(t, data.source());
    return t;
  }
};

// From files that CPU ranks wrote, both backends make the same bits, and go on alike; the MoE model that the GPUs then
// save is read by CPU ranks of another layout, bit for bit, and the other way round.
TEST_F(GpuUpcycling, FromACheckpointIsTheCpusBitForBit) {
  const Mesh first = make_test_mesh(*cpu.device, *cpu.stream);
  std::size_t turn = 0;
  for (const char* dtype : {"fp32", "bf16"}) {
    const Config dense = dense_config(dtype);
    Trainer before = trained(cpu, dense, first, 2);
    const auto checkpoint = saved(before, fmt::format("dense_{}", dtype));
    for (const Way& way : ways()) {
      const Parallelism p = layouts()[turn++ % layouts().size()], other = layouts()[turn % layouts().size()];
      SCOPED_TRACE(fmt::format("{} {} {}", dtype, way.name, p.text()));
      Config c = dense;
      c.upcycle = way.upcycle;
      c.model = upcycled_model(dense.model, experts(way.E, way.k, way.moe_F), way.upcycle, "test");
      const std::uint64_t made_before = emul::counters().nccl_communicators;
      const Mesh on_gpu = make_test_mesh(gpu, p), on_cpu = make_test_mesh(cpu, p);
      const bool offload = turn % 2 == 0;
      Trainer a = trainer(gpu, offloaded(c, offload), on_gpu), b = trainer(cpu, c, on_cpu);
      {
        const DeferredStreams deferred(turn);
        const double change = upcycle_from_checkpoint(a, *checkpoint, kProbe).change;
        EXPECT_NEAR(change, upcycle_from_checkpoint(b, *checkpoint, kProbe).change,
                    dense.storage() == DType::F32 ? 1e-5 * (1 + change) : 2e-2);
      }
      expect_same_state(whole_state(a), whole_state(b));

      a.step = b.step = before.step;
      for (int i = 0; i < 2; ++i) {
        const double want = train_step(b, data.source()).loss;
        EXPECT_NEAR(train_step(a, data.source()).loss, want, (dense.storage() == DType::F32 ? 1e-5 : 1e-2) * want);
      }
      check_replicas(a.optimizer, a.memory);
      c.init.upcycle = checkpoint->directory();
      EXPECT_EQ(emul::counters().nccl_communicators - made_before,
                static_cast<std::uint64_t>(nccl_communicators(c, on_gpu.layout)));

      const auto moe = saved(a, fmt::format("gpu_{}", turn));
      const Mesh other_cpu = make_test_mesh(cpu, other), other_gpu = make_test_mesh(gpu, other);
      Trainer read = trainer(cpu, c, other_cpu);
      restore_trainer(read, *moe);
      const TrainedState was = whole_state(a);
      expect_same_state(whole_state(read), was);
      const auto again = saved(read, fmt::format("cpu_{}", turn));
      Trainer back = trainer(gpu, offloaded(c, !offload), other_gpu);
      {
        const DeferredStreams deferred(turn);
        restore_trainer(back, *again);
      }
      expect_same_state(whole_state(back), was);
      check_replicas(back.optimizer, back.memory);
    }
  }
}

// In a live run: the masters, working weights and moments that CPU ranks of the layout make of the same dense run.
TEST_F(GpuUpcycling, LiveAtAStepIsTheCpusBitForBit) {
  const Mesh first = make_test_mesh(*cpu.device, *cpu.stream);
  std::size_t turn = 0;
  for (const char* dtype : {"bf16", "fp32"}) {
    Config dense = dense_config(dtype);
    dense.train.moment_dtype = dtype;
    Trainer before = trained(cpu, dense, first, 2);
    const auto checkpoint = saved(before, fmt::format("dense_{}", dtype));
    for (const Way& way : ways()) {
      const Parallelism p = layouts()[turn++ % layouts().size()];
      SCOPED_TRACE(fmt::format("{} {} {}", dtype, way.name, p.text()));
      Config c = dense;
      c.upcycle = way.upcycle;
      c.model = upcycled_model(dense.model, experts(way.E, way.k, way.moe_F), way.upcycle, "test");
      c.parallel.tp = p.tp, c.parallel.ep = p.ep, c.parallel.etp = p.etp;
      const std::uint64_t made_before = emul::counters().nccl_communicators;
      const Mesh on_gpu = make_test_mesh(gpu, p), on_cpu = make_test_mesh(cpu, p);
      const bool offload = turn % 2 == (dense.storage() == DType::F32 ? 0 : 1);
      Trainer a0 = trainer(gpu, offloaded(dense, offload), on_gpu), b0 = trainer(cpu, dense, on_cpu);
      restore_trainer(a0, *checkpoint);
      restore_trainer(b0, *checkpoint);
      LiveUpcycle b = upcycle_live(std::move(b0), c, kProbe);
      const DeferredStreams deferred(turn);
      LiveUpcycle a = upcycle_live(std::move(a0), offloaded(c, offload), kProbe);
      expect_same_state(whole_state(a.trainer), whole_state(b.trainer));
      EXPECT_EQ(a.trainer.step, 2);
      check_replicas(a.trainer.optimizer, a.trainer.memory);
      for (int i = 0; i < 2; ++i) {
        const double want = train_step(b.trainer, data.source()).loss;
        EXPECT_NEAR(train_step(a.trainer, data.source()).loss, want,
                    (dense.storage() == DType::F32 ? 1e-5 : 1e-2) * want);
      }
      c.upcycle.at_step = 2;
      EXPECT_EQ(emul::counters().nccl_communicators - made_before,
                static_cast<std::uint64_t>(nccl_communicators(c, on_gpu.layout)));
    }
  }
}

// What a snapshot holds is the state at its step, although the next step runs while its copies travel and is done
// before a file is written; and it holds up nothing: no wait of the host.
TEST_F(GpuUpcycling, ASnapshotIsTheStateAtItsStepWhileTheNextRuns) {
  Config c = dense_config("bf16");
  c.model = upcycled_model(c.model, experts(4, 2), c.upcycle, "test");
  const Parallelism p = layouts().back();
  const Mesh on_gpu = make_test_mesh(gpu, p), on_cpu = make_test_mesh(*cpu.device, *cpu.stream);
  for (const std::uint64_t seed : {1, 2, 3}) {
    SCOPED_TRACE(seed);
    const DeferredStreams deferred(seed);
    Trainer t = trained(gpu, c, on_gpu, 2);
    const TrainedState want = whole_state(t);
    const CheckpointInfo info = [&] {
      CheckpointInfo i = checkpoint_info(t);
      i.config = to_json(t.config);
      return i;
    }();
    const std::string run = fmt::format("{}/snapshot_{}", folder.path, seed);
    CheckpointWriter writer(run, host_world(), 0);
    Snapshot snapshot = make_snapshot(t);
    emul::run_last(static_cast<cudaStream_t>(snapshot.copies->native()));
    const emul::Counters before = emul::counters();
    SavedState state = take_snapshot(t, snapshot);
    EXPECT_EQ(emul::counters().stream_waits, before.stream_waits);
    EXPECT_EQ(emul::counters().event_waits, before.event_waits);
    EXPECT_EQ(emul::counters().copies_that_wait, before.copies_that_wait);
    (void)train_step(t, data.source());
    writer.start(info, std::move(state), {});
    (void)train_step(t, data.source());
    writer.finish();

    Trainer read = trainer(cpu, c, on_cpu);
    restore_trainer(read, *open_checkpoint(run, true, &host_world()));
    const TrainedState got = whole_state(read);
    expect_same_state(got, want);
    EXPECT_FALSE(got.parameters.at("lm_head.weight").master == whole_state(t).parameters.at("lm_head.weight").master);
  }
}

}  // namespace
}  // namespace upcycle::test
