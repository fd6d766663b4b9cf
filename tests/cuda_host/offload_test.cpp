#include <fmt/core.h>

#include <cmath>

#include "core/rng.h"
#include "kernels/ops.h"
#include "parallel/train/offload.h"
#include "parallel/train/snapshot.h"
#include "tests/train/rig.h"

// train.optimizer_offload against the same run without it: the CPU's update has the bits of the GPU's.
namespace upcycle {
namespace {

const OffloadSizes kTiny{32, 2};  // a row or so, and hardly a buffer

struct Case {
  const char* name;
  void (*change)(Config&);
};
const Case kCases[] = {
    {"Dense", [](Config& c) { c.model = small_config().model; }},
    {"Moe", [](Config&) {}},
    {"Tied", [](Config& c) { c.model.tie_word_embeddings = true; }},
    {"Lion", [](Config& c) { c.train.optimizer = "lion"; }},
    {"Sgd", [](Config& c) { c.train.optimizer = "sgd"; }},
    {"Clipped", [](Config& c) { c.train.clip_grad = 0.01; }},
    {"NotClipped", [](Config& c) { c.train.clip_grad = 0; }},
    {"RoundedGradients", [](Config& c) { c.train.gradient_dtype = "bf16", c.train.micro_batch_size = 2; }},
    {"RoundedMoments", [](Config& c) { c.train.moment_dtype = "bf16"; }},
    {"Frozen",
     [](Config& c) {
       c.train.freeze = {"*embed*", "*.experts.[13].*", "model.layers.1.input_layernorm*"};
     }},
};

Config config_of(const Case& c, const char* dtype) {
  Config config = small_moe_config();
  config.dtype = dtype;
  config.device = "cuda";
  config.train.lr = 1e-2;
  config.train.schedule = "constant";
  c.change(config);
  return config;
}

struct Ran {
  std::vector<double> losses, norms;
  TrainedState state;
};

Ran run(const Rig& rig, Config config, bool offload, OffloadSizes sizes = {}) {
  const Mesh mesh = single_mesh(rig);
  config.train.optimizer_offload = offload;
  Trainer t = random_trainer(rig, config, mesh);
  EXPECT_EQ(t.optimizer.offload != nullptr, offload);
  if (offload) t.optimizer.offload = make_offload(t.optimizer, t.memory, *rig.host_ops, sizes);
  const FixedSequences data = random_sequences(16, 9, config.model.vocab_size, 3);
  Ran r;
  for (int i = 0; i < 3; ++i) {
    const StepResult step = train_step(t, data.source());
    r.losses.push_back(step.loss);
    r.norms.push_back(step.grad_norm);
  }
  r.state = state_of(t);
  return r;
}

class Offloaded : public ::testing::TestWithParam<Case> {};

TEST_P(Offloaded, HasTheBitsOfTheGpusUpdate) {
  const Rig rig;
  for (const char* dtype : {"fp32", "bf16"}) {
    const Config config = config_of(GetParam(), dtype);
    if (config.train.moments() == 0 && config.storage() == DType::F32) continue;  // refused
    const Ran want = run(rig, config, false);
    for (const OffloadSizes sizes : {OffloadSizes{}, kTiny}) {
      SCOPED_TRACE(fmt::format("{}, blocks of {}", dtype, sizes.block));
      const Ran got = run(rig, config, true, sizes);
      EXPECT_EQ(got.losses, want.losses);
      EXPECT_EQ(got.norms, want.norms);
      expect_same_state(got.state, want.state);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(All, Offloaded, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

// Over many magnitudes, what is left of the GPU's and the CPU's rounding would show.
TEST(OffloadedUpdate, OfEveryMagnitudeHasTheGpusBits) {
  const Rig gpu, cpu = cpu_rig();
  constexpr std::int64_t n = 1000;
  const auto draw = [&](std::uint64_t seed, double low, double high, bool positive) {
    std::vector<float> x(n);
    for (std::size_t i = 0; i < n; ++i) {
      const double share = static_cast<double>(rng::below(1 << 20, seed, 1, i)) / (1 << 20);
      const bool minus = !positive && rng::below(2, seed, 2, i) == 0;
      x[i] = i % 97 == 0 ? 0.0F : static_cast<float>((minus ? -1 : 1) * std::pow(10, low + share * (high - low)));
    }
    return x;
  };
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const char* optimizer : {"adamw", "lion", "sgd"})
      for (const std::int64_t step : {1, 2, 1000}) {
        SCOPED_TRACE(fmt::format("{} {} step {}", name_of(dtype), optimizer, step));
        std::vector<std::vector<float>> results[2];
        for (const Rig* rig : {&gpu, &cpu}) {
          Arena arena("operands");
          Tensor param, scale, operands[4];
          for (const bool plan_only : {true, false}) {
            param = arena.take(dtype, {n});
            scale = arena.take(DType::F32, {1});
            for (Tensor& t : operands) t = arena.take(DType::F32, {n});
            if (plan_only) arena.allocate(*rig->device);
          }
          Staging staging(*rig->device, *rig->stream);
          const auto& [master, m, v, grad] = operands;
          const float factor = 0.37F;
          write_floats(staging, scale, &factor);
          write_floats(staging, master, draw(1, -6, 2, false).data());
          write_floats(staging, m, draw(2, -30, 3, false).data());
          write_floats(staging, v, draw(3, -38, 3, true).data());
          write_floats(staging, grad, draw(4, -20, 4, false).data());
          if (optimizer[0] == 'a')
            rig->ops->adamw(*rig->stream, {param, master, m, v, grad}, scale, {3e-3F, 0.9F, 0.95F, 1e-8F, 0.1F, step});
          else if (optimizer[0] == 'l')
            rig->ops->lion(*rig->stream, {param, master, m, {}, grad}, scale, {3e-3F, 0.9F, 0.99F, 0.1F});
          else
            rig->ops->sgd(*rig->stream, {param, master, {}, {}, grad}, scale, 3e-3F, 0.1F);
          for (const Tensor& x : {param, master, m, v}) {
            std::vector<float> values(n);
            read_floats(staging, x, values.data());
            results[rig == &cpu ? 1 : 0].push_back(values);
          }
        }
        for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(results[0][i] == results[1][i]) << "operand " << i;
      }
}

TEST(OffloadedMemory, IsAsPlannedAndNoStepAllocates) {
  const Rig rig;
  const Mesh mesh = single_mesh(rig);
  for (const char* dtype : {"fp32", "bf16"}) {
    Config config = config_of(kCases[1], dtype);
    config.train.optimizer_offload = true;
    config.checkpoint.dir = "somewhere";
    Trainer t = random_trainer(rig, config, mesh);
    Snapshot snapshot = make_snapshot(t);
    std::map<std::string, MemoryClass> plan;
    for (const MemoryClass& m : plan_trainer(config, mesh, *rig.ops)) plan[m.name] = m;
    const auto expect = [&](const Arena& arena, bool beside) {
      EXPECT_EQ(plan.at(arena.name()).bytes, arena.capacity()) << arena.name();
      EXPECT_EQ(plan.at(arena.name()).beside_gpu, beside) << arena.name();
    };
    for (const Arena* a : {&t.memory.parameters, &t.memory.gradients, &t.memory.optimizer}) expect(*a, false);
    for (const Arena* a : {&t.memory.host_state, &t.optimizer.offload->buffers, &snapshot.arena}) expect(*a, true);
    const FlatPair& master = t.memory.master;
    EXPECT_EQ(t.memory.host_state.capacity(),
              3 * (Arena::align(master.dense.bytes()) + Arena::align(master.expert.bytes())));
    EXPECT_EQ(t.memory.optimizer.capacity(), 2 * Arena::kAlignment);
    // Buffers of bounded size: at full size a GiB at most, however large the model.
    const OffloadSizes sizes;
    EXPECT_LE(static_cast<double>(sizes.block) * (4.0 * static_cast<double>(sizes.slots) + 2 * 4), 1 << 30);
    EXPECT_EQ(t.optimizer.offload->slots.size(), sizes.slots);

    const FixedSequences data = random_sequences(16, 9, config.model.vocab_size, 3);
    (void)train_step(t, data.source());
    const std::uint64_t allocations = device_allocation_count();
    (void)train_step(t, data.source());
    EXPECT_EQ(device_allocation_count(), allocations);
  }
}

// The CPU backend's state is in host memory as it is.
TEST(OffloadOnTheCpu, IsTheIdentity) {
  const Rig cpu = cpu_rig();
  const Mesh mesh = single_mesh(cpu);
  Config config = small_moe_config();
  const std::vector<MemoryClass> before = plan_trainer(config, mesh, *cpu.ops);
  config.train.optimizer_offload = true;
  const std::vector<MemoryClass> after = plan_trainer(config, mesh, *cpu.ops);
  ASSERT_EQ(before.size(), after.size());
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_EQ(before[i].bytes, after[i].bytes) << before[i].name;
  const Trainer t = random_trainer(cpu, config, mesh);
  EXPECT_EQ(t.optimizer.offload, nullptr);
  EXPECT_FALSE(t.memory.host_state.allocated());
}

}  // namespace
}  // namespace upcycle
