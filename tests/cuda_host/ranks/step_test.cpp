#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "parallel/model/transformer.h"
#include "parallel/train/step.h"
#include "tests/cuda_host/ranks/schedule.h"
#include "tests/cuda_host/ranks/whole_state.h"
#include "tests/parity_mpi/models.h"

// A training step on ranks with a GPU each against the CPU backend: loss, router losses and every raw gradient, and the
// same bits whenever its streams run.
namespace upcycle::test {
namespace {

// tp 1 and 2, every ep, etp 1 and tp.
std::vector<Parallelism> layouts_of(const ModelConfig& model) {
  std::vector<Parallelism> all = legal_layouts(model);
  std::erase_if(all, [](const Parallelism& p) { return p.tp > 2; });
  return all;
}

Trainer trainer_of(const Rig& rig, const Config& config, const Mesh& mesh, const Fill& fill) {
  Trainer t = make_trainer(config, mesh, *rig.device, *rig.stream, *rig.ops);
  fill(t);
  return t;
}

// The raw gradients that this rank owns after one step of a fresh trainer: nothing of an earlier step lies where
// something is not waited for.
std::vector<float> gradients_of(const Rig& rig, const Config& config, const Mesh& mesh, const Fill& fill,
                                const FixedSequences& data) {
  Trainer t = trainer_of(rig, config, mesh, fill);
  (void)compute_gradients(t, data.source());
  return owned_gradients(t);
}

// Every `step`-th layout from `first` on, `seeds` of deferred streams for each, going round.
void compare_with_the_cpu(const Switches& s, int seeds, std::size_t first = 0, std::size_t step = 1) {
  Config c = config_of(s);
  const Fill fill = fill_of(s);
  c.train.global_batch_size = c.train.micro_batch_size * s.microbatches * mpi_session().size();
  FixedSequences data = clear_sequences(c, fill, c.train.global_batch_size);
  if (s.masked) mask_targets(c, data);
  const Reference want = one_rank_reference(c, fill, data);
  ASSERT_GT(want.gap, 1e-4);
  std::vector<Parallelism> layouts = layouts_of(c.model);
  if (s.zero_stage == 2) std::erase_if(layouts, [&](const Parallelism& p) { return !has_replicas(c.model, p); });
  std::uint64_t seed = first;
  for (std::size_t l = first; l < layouts.size(); l += step) {
    const Parallelism& p = layouts[l];
    compare_layout(c, p, fill, data, want, [&](Trainer& t) {
      ASSERT_EQ(t.device->kind(), DeviceKind::Cuda);
      const std::vector<float> eager = owned_gradients(t);
      const Rig rig;
      const Mesh mesh = make_test_mesh(rig, p);
      for (int i = 0; i < seeds; ++i) {
        SCOPED_TRACE(fmt::format("deferred streams, seed {}", 1 + seed % 3));
        const DeferredStreams deferred(1 + seed++ % 3);
        EXPECT_TRUE(gradients_of(rig, c, mesh, fill, data) == eager);
      }
    });
    if (::testing::Test::HasFatalFailure()) return;
  }
}

Switches dense() {
  Switches s;
  s.start = Start::Dense;
  s.microbatches = 2;
  s.masked = true;
  return s;
}
Switches zero2() {
  Switches s = dense();
  s.microbatches = 3;
  s.tied = true;
  s.zero_stage = 2;
  return s;
}
Switches copies() {  // rounds, and what they make again
  Switches s;
  s.tight = s.recompute = true;
  s.chunks = 3;
  return s;
}
Switches shared_expert() {
  Switches s;
  s.start = Start::SharedExpert;
  s.microbatches = 2;
  s.chunks = 3;
  s.classes = true;
  return s;
}
Switches groups() {
  Switches s;
  s.start = Start::VirtualGroup;
  s.every = 2;
  s.tied = true;
  return s;
}
Switches one_expert() {
  Switches s;
  s.one_expert = s.tight = s.masked = true;
  return s;
}

// On four ranks each MoE layout with one of the two models.
TEST(GpuStep, OfADenseModelIsTheCpus) { compare_with_the_cpu(dense(), 1); }
TEST(GpuStep, UnderZero2IsTheCpus) { compare_with_the_cpu(zero2(), 2); }
TEST(GpuStep, OfCopiesInRoundsIsTheCpus) { compare_with_the_cpu(copies(), 1, 0, mpi_session().size() == 4 ? 2 : 1); }
TEST(GpuStep, WithASharedExpertIsTheCpus) {
  const bool four = mpi_session().size() == 4;
  compare_with_the_cpu(shared_expert(), 1, four ? 1 : 0, four ? 2 : 1);
}

class FullGpuStepOf : public ::testing::TestWithParam<Switches> {};
TEST_P(FullGpuStepOf, IsTheCpusOnEveryLayoutAndSeed) { compare_with_the_cpu(GetParam(), 3); }
INSTANTIATE_TEST_SUITE_P(FullFp32, FullGpuStepOf,
                         ::testing::Values(dense(), zero2(), copies(), shared_expert(), groups(), one_expert()),
                         [](const auto& info) { return info.param.text(); });

// bf16 sums are rounded alike whenever the streams run.
TEST(GpuStep, WithBf16SumsHasTheSameBitsInEveryOrder) {
  Switches s = shared_expert();
  s.tied = true;
  Config c = config_of(s);
  c.train.gradient_dtype = "bf16";
  std::uint64_t seed = 0;
  for (const Parallelism& p : layouts_of(c.model)) {
    SCOPED_TRACE(p.text());
    const Rig rig;
    const Mesh mesh = make_test_mesh(rig, p);
    c.train.zero_stage = has_replicas(c.model, p) && seed % 2 == 0 ? 2 : 1;
    c.train.global_batch_size = 2 * c.train.micro_batch_size * mesh.layout.dp;
    const FixedSequences data = random_sequences(c.train.global_batch_size, c.train.seq_length, c.model.vocab_size, 3);
    const std::vector<float> eager = gradients_of(rig, c, mesh, random_fill(), data);
    const DeferredStreams deferred(1 + seed++ % 3);
    EXPECT_TRUE(gradients_of(rig, c, mesh, random_fill(), data) == eager);
  }
}

// The memory of a slot that is still being reduced, planted: all parts have one slot.
TEST(GpuStep, NoticesASlotThatIsUsedAgainTooEarly) {
  if (mpi_session().size() == 1) GTEST_SKIP() << "needs replicas";
  const Rig rig;
  const Mesh mesh = make_test_mesh(rig, {});
  Config c = small_config();
  c.train.zero_stage = 2;
  c.train.global_batch_size = 2 * c.train.micro_batch_size * mpi_session().size();
  const FixedSequences data = random_sequences(c.train.global_batch_size, c.train.seq_length, c.model.vocab_size, 3);
  const std::vector<float> right = gradients_of(rig, c, mesh, random_fill(), data);
  const Fill one_slot = [](Trainer& t) {
    random_fill()(t);
    std::fill(t.memory.slots.dense.begin(), t.memory.slots.dense.end(), 0);
    bind_gradients(*t.model, [&](const ParamRow& row) { return gradient_place(t.table(), t.memory, row); });
  };
  bool noticed = false;
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const DeferredStreams deferred(seed);
    EXPECT_TRUE(gradients_of(rig, c, mesh, random_fill(), data) == right);
    noticed = gradients_of(rig, c, mesh, one_slot, data) != right || noticed;
  }
  EXPECT_EQ(host_world().max_of(noticed ? 1 : 0), 1);
}

// Heads of 64: attention on tensor cores, over several tiles of keys and of queries. All experts take every token, so
// that bf16 can choose no other; where they choose it is on few tokens whose choices are far from close.
Config bf16_config(bool choose) {
  Config c = small_moe_config();
  c.dtype = "bf16";
  c.model.hidden_size = 40;
  c.model.head_dim = 64;
  c.model.initializer_range = 0.1;
  c.model.intermediate_size = c.model.moe_intermediate_size = 24;
  c.model.num_experts_per_tok = choose ? 2 : 4;
  c.model.shared_expert = choose;
  c.parallel.imbalance_factor = 4;
  c.parallel.dispatch_chunks = choose ? 3 : 1;
  c.train.seq_length = choose ? 8 : 72;
  c.train.micro_batch_size = 1;
  c.train.global_batch_size = mpi_session().size();
  return c;
}

// The gradients of a bf16 trainer's weights in fp32: how far it is from them is its own rounding.
std::vector<std::vector<float>> gradients_in_fp32(const Rig& cpu, const Trainer& rounded, const FixedSequences& data) {
  Config c = rounded.config;
  c.dtype = "fp32";
  Trainer t = make_trainer(c, *rounded.mesh, *cpu.device, *cpu.stream, *cpu.ops);
  for (const ParamGroup group : {ParamGroup::Dense, ParamGroup::Expert})
    if (t.memory.weights.of(group).size() > 0)
      cpu.ops->convert(*cpu.stream, t.memory.weights.of(group), rounded.memory.weights.of(group));
  (void)compute_gradients(t, data.source());
  return whole_gradients(t);
}

// The CPU backend on the same layout: where activations are rounded depends on it.
void compare_in_bf16(bool choose, std::size_t step) {
  const Rig gpu, cpu = cpu_rig();
  const Config c = bf16_config(choose);
  const FixedSequences data = clear_sequences(c, random_fill(), c.train.global_batch_size, 0.1);
  const ParamTable table = make_global_table(c.model);
  const std::vector<Parallelism> layouts = layouts_of(c.model);
  for (std::size_t at = 0; at < layouts.size(); at += step) {
    SCOPED_TRACE(layouts[at].text());
    const Mesh on_gpu = make_test_mesh(gpu, layouts[at]), on_cpu = make_test_mesh(cpu, layouts[at]);
    Trainer a = trainer_of(gpu, c, on_gpu, random_fill()), b = trainer_of(cpu, c, on_cpu, random_fill());
    const StepResult got = compute_gradients(a, data.source()), want = compute_gradients(b, data.source());
    double different = 0;
    for (std::int64_t l = 0; choose && l < c.model.num_hidden_layers; ++l)
      different += chosen_experts(a, l) == chosen_experts(b, l) ? 0 : 1;
    ASSERT_EQ(host_world().sum_of(different), 0);
    EXPECT_NEAR(got.loss, want.loss, 1e-3 * want.loss);
    EXPECT_NEAR(got.aux_loss, want.aux_loss, 1e-2 * want.aux_loss);
    EXPECT_NEAR(got.z_loss, want.z_loss, 1e-2 * want.z_loss);

    const std::vector<std::vector<float>> g0 = whole_gradients(b), g = whole_gradients(a);
    double all = 0, difference = 0;
    for (std::size_t i = 0; i < g0.size(); ++i) {
      all += std::pow(norm(g0[i]), 2);
      difference += std::pow(distance(g[i], g0[i]), 2);
    }
    EXPECT_LE(std::sqrt(difference), 1e-2 * std::sqrt(all));
    // Where a handful of tokens chose an expert its gradient is a few roundings: then those of either backend are
    // alike.
    const std::vector<std::vector<float>> exact = gradients_in_fp32(cpu, b, data);
    double cpu_rounding = 0, gpu_rounding = 0;  // squared, of the whole gradient
    for (std::size_t i = 0; i < g0.size(); ++i) {
      const double rounding = distance(g0[i], exact[i]);
      EXPECT_LE(distance(g[i], g0[i]), std::max(1e-2 * norm(g0[i]) + 1e-4 * std::sqrt(all), 2 * rounding))
          << table.rows[i].name << " norm " << norm(g0[i]) << " of " << std::sqrt(all) << ", rounding " << rounding;
      cpu_rounding += rounding * rounding;
      gpu_rounding += std::pow(distance(g[i], exact[i]), 2);
    }
    EXPECT_LE(std::sqrt(gpu_rounding), 1.25 * std::sqrt(cpu_rounding));

    const DeferredStreams deferred(1 + at % 3);
    EXPECT_TRUE(gradients_of(gpu, c, on_gpu, random_fill(), data) == owned_gradients(a));
  }
}

TEST(GpuStep, InBf16IsTheCpus) { compare_in_bf16(true, 1); }
TEST(GpuStep, InBf16OverSeveralTilesIsTheCpus) { compare_in_bf16(false, mpi_session().size() == 4 ? 5 : 1); }
TEST(FullGpuStep, InBf16OverSeveralTilesIsTheCpus) { compare_in_bf16(false, 1); }

}  // namespace
}  // namespace upcycle::test
