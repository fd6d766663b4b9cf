#include <cmath>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_ops.h"
#include "tests/train/rig.h"

// A training step on the GPU backend against the CPU backend: the same model, the same batch.
namespace upcycle {
namespace {

struct Case {
  const char* name;
  Config config;
};

std::vector<Case> cases(const char* dtype) {
  Config full = small_moe_config(), tied = small_config(), last_softmax = small_moe_config(), sgd = small_moe_config(),
         lion = small_moe_config();
  full.train.recompute = "full";
  tied.model.tie_word_embeddings = true;
  last_softmax.model.router_softmax = "softmax_then_topk";
  sgd.train.optimizer = "sgd";
  lion.train.optimizer = "lion";
  std::vector<Case> all{
      {"dense", small_config()}, {"moe", small_moe_config()},          {"moe, recompute", full}, {"tied", tied},
      {"moe, sgd", sgd},         {"moe, softmax first", last_softmax}, {"moe, lion", lion}};
  for (Case& c : all) c.config.dtype = dtype;
  if (dtype == std::string("bf16")) {
    all.push_back({"tied, bf16 gradients", tied});
    all.back().config.train.gradient_dtype = "bf16";
  }
  return all;
}

struct Bounds {
  double loss, relative, absolute;  // of a gradient: relative to its norm, absolute to the norm of all
};

void expect_same_step(const Case& c, const Bounds& bounds) {
  SCOPED_TRACE(c.name);
  const Rig gpu, cpu = cpu_rig();
  const Mesh on_gpu = single_mesh(gpu), on_cpu = single_mesh(cpu);
  ASSERT_EQ(gpu.device->kind(), DeviceKind::Cuda);
  Trainer a = random_trainer(gpu, c.config, on_gpu), b = random_trainer(cpu, c.config, on_cpu);
  const FixedSequences data = random_sequences(8, 9, c.config.model.vocab_size, 3);
  const StepResult got = compute_gradients(a, data.source()), want = compute_gradients(b, data.source());
  if (c.config.model.is_moe())
    for (std::int64_t l = 0; l < c.config.model.num_hidden_layers; ++l) {
      ASSERT_GT(smallest_gap(b, l), 1e-4) << "layer " << l;
      ASSERT_EQ(chosen_experts(a, l), chosen_experts(b, l)) << "layer " << l;
    }
  EXPECT_NEAR(got.loss, want.loss, bounds.loss * want.loss);
  EXPECT_NEAR(got.aux_loss, want.aux_loss, bounds.loss * 10);
  EXPECT_NEAR(got.z_loss, want.z_loss, bounds.loss * 10 * std::max(1.0, want.z_loss));
  double all = 0;
  for (const ParamRow& row : b.table().rows) all += std::pow(norm(gradient_of(b, row)), 2);
  all = std::sqrt(all);
  for (const ParamRow& row : b.table().rows) {
    const std::vector<float> g0 = gradient_of(b, row), g = gradient_of(a, row);
    EXPECT_LE(distance(g, g0), bounds.relative * norm(g0) + bounds.absolute * all) << row.name << " norm " << norm(g0);
  }
}

TEST(CudaTrainingStep, LossAndGradientsAreTheCpusInFp32) {
  for (const Case& c : cases("fp32")) expect_same_step(c, {1e-6, 1e-5, 1e-7});
}

TEST(CudaTrainingStep, LossAndGradientsAreTheCpusInBf16) {
  for (const Case& c : cases("bf16")) expect_same_step(c, {1e-3, 1e-2, 1e-4});
}

// Several whole steps, optimizer and all: every weight and moment.
TEST(CudaTrainingStep, ThreeStepsEndWithTheCpusWeights) {
  for (const Case& c : cases("fp32")) {
    SCOPED_TRACE(c.name);
    const Rig gpu, cpu = cpu_rig();
    const Mesh on_gpu = single_mesh(gpu), on_cpu = single_mesh(cpu);
    Trainer a = random_trainer(gpu, c.config, on_gpu), b = random_trainer(cpu, c.config, on_cpu);
    const FixedSequences data = random_sequences(8, 9, c.config.model.vocab_size, 3);
    for (int i = 0; i < 3; ++i) {
      const StepResult got = train_step(a, data.source()), want = train_step(b, data.source());
      EXPECT_NEAR(got.loss, want.loss, 1e-5 * want.loss) << "step " << i;
      EXPECT_NEAR(got.grad_norm, want.grad_norm, 1e-5 * want.grad_norm) << "step " << i;
    }
    const TrainedState sa = state_of(a), sb = state_of(b);
    for (const auto& [name, p] : sb.parameters)
      EXPECT_LE(distance(sa.parameters.at(name).master, p.master), 1e-4 * norm(p.master) + 1e-7) << name;
  }
}

TEST(CudaTrainingStep, TheSameStepTwiceHasTheSameBits) {
  for (const char* dtype : {"fp32", "bf16"}) {
    Config config = small_moe_config();
    config.dtype = dtype;
    const Rig rig;
    const Mesh mesh = single_mesh(rig);
    Trainer a = random_trainer(rig, config, mesh), b = random_trainer(rig, config, mesh);
    const FixedSequences data = random_sequences(8, 9, config.model.vocab_size, 3);
    for (int i = 0; i < 2; ++i) EXPECT_EQ(train_step(a, data.source()).loss, train_step(b, data.source()).loss);
    expect_same_state(state_of(a), state_of(b));
  }
}

}  // namespace
}  // namespace upcycle
