#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "parallel/model/transformer.h"
#include "parallel/train/snapshot.h"
#include "tests/resident_bytes.h"
#include "tests/train/rig.h"
#ifdef __SANITIZE_ADDRESS__
extern "C" std::size_t __sanitizer_get_current_allocated_bytes();  // GCC 12 ships no header for it
#endif

// A step allocates none of our memory, and what is allocated before is what the plan says.
namespace upcycle {
namespace {

const Mesh mesh = make_single_mesh();

Config steady_config(bool moe, const char* dtype, const char* recompute, const char* gradient_dtype) {
  Config c = moe ? small_moe_config() : small_config();
  c.dtype = dtype;
  c.train.recompute = recompute;
  c.train.gradient_dtype = gradient_dtype;
  c.train.steps = 1000;
  c.train.lr = 1e-2;  // routing must move
  return c;
}

std::size_t heap_bytes() {
#ifdef __SANITIZE_ADDRESS__
  return __sanitizer_get_current_allocated_bytes();
#else
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
#endif
}

class SteadyState : public ::testing::TestWithParam<std::tuple<bool, const char*, const char*, const char*>> {
 protected:
  Config config = std::apply(steady_config, GetParam());
  Rig rig;
};

TEST_P(SteadyState, AStepAllocatesNothingAndMemoryStaysFlat) {
  Trainer t = random_trainer(rig, config, mesh);
  const FixedSequences data = random_sequences(400, 9, config.model.vocab_size, 1);
  const SequenceSource source = data.source();
  for (int i = 0; i < 10; ++i) (void)train_step(t, source);
  const auto& ops = dynamic_cast<const CpuOps&>(*rig.ops);
  const std::uint64_t allocations = device_allocation_count();
  const std::size_t heap = heap_bytes(), primitives = ops.matmul_primitives();
  [[maybe_unused]] const std::size_t resident = test::resident_bytes();  // the sanitizer keeps freed memory
  std::vector<std::int32_t> routing = config.model.is_moe() ? chosen_experts(t, 1) : std::vector<std::int32_t>{};
  int changes = 0;
  for (int i = 0; i < 100; ++i) {
    (void)train_step(t, source);
    if (!config.model.is_moe()) continue;
    changes += chosen_experts(t, 1) != routing ? 1 : 0;
  }
  EXPECT_EQ(device_allocation_count(), allocations);
  EXPECT_EQ(ops.matmul_primitives(), primitives);
  EXPECT_LE(heap_bytes(), heap + 4096);  // the test's own
#ifndef __SANITIZE_ADDRESS__
  EXPECT_LE(test::resident_bytes(), resident + (std::size_t{256} << 10));
#endif
  EXPECT_EQ(changes > 90, config.model.is_moe());
}

TEST_P(SteadyState, ArenasAreAsPlannedAndFull) {
  Trainer t = random_trainer(rig, config, mesh);
  const FixedSequences data = random_sequences(400, 9, config.model.vocab_size, 1);
  for (int i = 0; i < 3; ++i) (void)train_step(t, data.source());
  const Arena* arenas[] = {&t.memory.parameters, &t.memory.gradients, &t.memory.optimizer, &t.activations};
  const std::uint64_t allocations = device_allocation_count();
  const std::vector<MemoryClass> plan = plan_trainer(config, mesh, *rig.ops);
  EXPECT_EQ(device_allocation_count(), allocations);  // planning takes no memory
  std::vector<MemoryClass> taken;                     // an arena may hold several classes
  for (const Arena* arena : arenas) {
    EXPECT_EQ(arena->high_water(), arena->capacity()) << arena->name();
    std::size_t bytes = 0;
    for (const MemoryClass& m : arena->classes()) {
      taken.push_back(m);
      bytes += m.bytes;
    }
    EXPECT_EQ(bytes, arena->capacity()) << arena->name();
  }
  taken.push_back({"collectives", collective_scratch_bytes(mesh.layout)});
  ASSERT_EQ(plan.size(), taken.size());
  for (std::size_t i = 0; i < plan.size(); ++i) {
    EXPECT_EQ(plan[i].name, taken[i].name);
    EXPECT_EQ(plan[i].bytes, taken[i].bytes) << plan[i].name;
  }
}

TEST_P(SteadyState, TheSnapshotIsAsPlanned) {
  config.checkpoint.dir = "anywhere";
  Trainer t = random_trainer(rig, config, mesh);
  Snapshot snapshot = make_snapshot(t);
  (void)take_snapshot(t, snapshot);
  const std::vector<MemoryClass> plan = plan_trainer(config, mesh, *rig.ops);
  EXPECT_EQ(plan.back().name, snapshot.arena.name());
  EXPECT_EQ(plan.back().bytes, snapshot.arena.capacity());
  EXPECT_EQ(snapshot.arena.high_water(), snapshot.arena.capacity());
}

// Whatever the activations held before, even NaN, a step gives the same bits: it reads only what it wrote. (Padding
// rows between experts are multiplied by zeros, which does not make a NaN harmless.)
TEST_P(SteadyState, AStepReadsNothingThatWasLeftBehind) {
  config.model.shared_expert = config.model.is_moe();
  Trainer t = random_trainer(rig, config, mesh);
  const FixedSequences data = random_sequences(4, 9, config.model.vocab_size, 1);
  const StepResult want = compute_gradients(t, data.source());
  std::vector<std::vector<float>> gradients;
  for (const ParamRow& row : t.table().rows) gradients.push_back(gradient_of(t, row));

  const Tensor lasting[] = {t.model->rope_table, t.batch.positions, t.batch.sequences.offsets};
  std::vector<std::string> kept;
  for (const Tensor& x : lasting) kept.emplace_back(static_cast<const char*>(x.data), x.bytes());
  std::memset(t.activations.data(), 0xff, t.activations.capacity());
  for (std::size_t i = 0; i < kept.size(); ++i) std::memcpy(lasting[i].data, kept[i].data(), kept[i].size());

  const StepResult got = compute_gradients(t, data.source());
  EXPECT_EQ(got.loss, want.loss);
  EXPECT_EQ(got.aux_loss, want.aux_loss);
  EXPECT_EQ(got.z_loss, want.z_loss);
  for (std::size_t i = 0; i < gradients.size(); ++i)
    EXPECT_TRUE(gradient_of(t, t.table().rows[i]) == gradients[i]) << t.table().rows[i].name;
}

const auto name_of = [](const auto& info) {
  const auto [moe, dtype, recompute, gradient_dtype] = info.param;
  std::string name = std::string(moe ? "Moe_" : "Dense_") + dtype + "_recompute_" + recompute +
                     (gradient_dtype == std::string("bf16") ? "_gradients_bf16" : "");
  std::replace(name.begin(), name.end(), ',', '_');
  return name;
};
INSTANTIATE_TEST_SUITE_P(Runs, SteadyState,
                         ::testing::Combine(::testing::Bool(), ::testing::Values("fp32", "bf16"),
                                            ::testing::Values("none", "full", "attention,mlp,norms", "selective"),
                                            ::testing::Values("fp32")),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Bf16Sums, SteadyState,
                         ::testing::Combine(::testing::Bool(), ::testing::Values("bf16"), ::testing::Values("full"),
                                            ::testing::Values("bf16")),
                         name_of);

// The classes by hand: fp32 keeps no second copy of the weights, bf16 does; AdamW two moments, Lion one, SGD none.
TEST(TrainMemory, BytesByHand) {
  const ParamTable table = make_global_table(small_moe_config().model);
  EXPECT_EQ(table.dense.shard_size, table.dense.size);
  const auto bytes = [&](DType dtype, const char* optimizer, std::size_t i, DType gradients = DType::F32,
                         bool split = false, DType moment = DType::F32) {
    TrainConfig c;
    c.optimizer = optimizer;
    return plan_train_memory(table, {dtype, split, c.moments(), moment}, {1, gradients})[i].bytes;
  };
  const std::vector<std::size_t> elements = {static_cast<std::size_t>(table.dense.size),
                                             static_cast<std::size_t>(table.expert.size)};
  // Each tensor of both groups begins at a multiple of the arena's alignment.
  const auto of_each = [&](std::size_t size) {
    return Arena::align(size * elements[0]) + Arena::align(size * elements[1]);
  };
  const std::size_t scalars = 2 * Arena::kAlignment;
  EXPECT_EQ(bytes(DType::F32, "adamw", 0), of_each(4));
  EXPECT_EQ(bytes(DType::BF16, "adamw", 0), of_each(2));
  EXPECT_EQ(bytes(DType::BF16, "adamw", 1), of_each(4));
  // Beside bf16 sums, fp32 room for the largest part: here a layer, or the embedding.
  std::int64_t part = 0;
  for (std::size_t i = 0; i < table.dense.buckets.size(); ++i) {
    const Bucket& dense = table.dense.buckets[i];
    std::int64_t n = dense.end - dense.begin;
    for (const Bucket& expert : table.expert.buckets)
      if (expert.layer == dense.layer) n += expert.end - expert.begin;
    part = std::max(part, n);
  }
  EXPECT_EQ(bytes(DType::BF16, "adamw", 1, DType::BF16),
            of_each(2) + Arena::align(sizeof(float) * static_cast<std::size_t>(part)));
  EXPECT_EQ(bytes(DType::F32, "adamw", 2), 2 * of_each(4) + scalars);
  EXPECT_EQ(bytes(DType::BF16, "adamw", 2), 3 * of_each(4) + scalars);
  EXPECT_EQ(bytes(DType::F32, "lion", 2), of_each(4) + scalars);
  EXPECT_EQ(bytes(DType::BF16, "lion", 2), 2 * of_each(4) + scalars);
  EXPECT_EQ(bytes(DType::F32, "sgd", 2), scalars);
  EXPECT_EQ(bytes(DType::BF16, "sgd", 2), of_each(4) + scalars);

  // 17 bits for each element, and three words more for each row.
  const auto words = [&](std::size_t size) { return Arena::align(4 * (size / 32 + 3 * table.rows.size())); };
  const std::size_t split = of_each(2) + words(elements[0]) + words(elements[1]);
  EXPECT_EQ(bytes(DType::BF16, "sgd", 2, DType::F32, true), split + scalars);
  EXPECT_EQ(bytes(DType::BF16, "adamw", 2, DType::F32, true), split + 2 * of_each(4) + scalars);
  EXPECT_EQ(bytes(DType::BF16, "adamw", 2, DType::F32, true, DType::BF16), split + 2 * of_each(2) + scalars);
  EXPECT_EQ(bytes(DType::F32, "lion", 2, DType::F32, false, DType::BF16), of_each(2) + scalars);
}

}  // namespace
}  // namespace upcycle
