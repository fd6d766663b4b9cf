#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "parallel/train/step.h"
#include "tests/parity_mpi/models.h"

namespace upcycle::test {
namespace {

// tp 2, dp 4, ep 4 on eight ranks, the nearest to it on fewer; experts whole on a rank and cut over tp.
std::vector<Parallelism> mixed_layouts() {
  const int world = mpi_session().size();
  if (world == 8) return {{2, 4, 1}, {2, 4, 2}};
  if (world == 6) return {{2, 3, 1}, {3, 2, 3}};
  if (world % 2 == 0) return {{2, world / 2, 1}, {2, world / 2, 2}};
  return {{1, world, 1}};
}

Config config_of(Start start, const char* dtype) {
  Switches s;
  s.start = start;
  s.every = 2;
  s.tight = true;
  Config c = config_of(s);
  c.dtype = dtype;
  c.train.steps = 30;
  c.train.lr = 3e-3;
  c.train.min_lr = 3e-4;
  c.train.warmup_steps = 5;
  c.train.global_batch_size = 2 * c.train.micro_batch_size * mpi_session().size();
  return c;
}

FixedSequences data_of(const Config& c) {
  FixedSequences data = random_sequences(c.train.global_batch_size, c.train.seq_length, c.model.vocab_size, 7);
  mask_targets(c, data);
  return data;
}

Trainer start(const Rig& rig, const Config& config, const Mesh& mesh, const Fill& fill) {
  Trainer t = make_trainer(config, mesh, *rig.device, *rig.stream, *rig.ops);
  fill(t);
  return t;
}

// Experts differ from the first step on (the copies by their noise), and the aux loss reaches the router too. The bound
// asked for is 1e-4; this holds 1e-5. At this learning rate last-bit changes of one rank's weights move its losses by
// 1e-7; at three times the rate they flip a choice of an expert after some 15 steps, and layouts could not be compared.
class ThirtySteps : public ::testing::TestWithParam<Start> {};

TEST_P(ThirtySteps, TrackOneRanksLossesAndReplicasStayEqual) {
  const Rig rig, cpu = cpu_rig();
  const Mesh single = single_mesh(cpu);
  const Config c = config_of(GetParam(), "fp32");
  const FixedSequences data = data_of(c);
  Switches s;
  s.start = GetParam();
  s.every = 2;
  const Fill fill = fill_of(s);
  std::vector<StepResult> want;
  if (mpi_session().rank() == 0) {  // the others wait at the first collective
    Trainer one = start(cpu, c, single, fill);
    while (one.step < c.train.steps) want.push_back(train_step(one, data.source()));
    EXPECT_LT(want.back().loss, 0.97 * want.front().loss);  // it does learn
  }
  for (const Parallelism& p : mixed_layouts()) {
    SCOPED_TRACE(p.text());
    const Mesh mesh = make_test_mesh(rig, p);
    Trainer t = start(rig, c, mesh, fill);
    for (std::size_t i = 0; i < 30; ++i) {
      const StepResult got = train_step(t, data.source());
      check_replicas(t.optimizer, t.memory);
      if (mesh.rank != 0) continue;
      EXPECT_NEAR(got.loss, want[i].loss, 1e-5 * want[i].loss) << "step " << i;
      EXPECT_NEAR(got.aux_loss, want[i].aux_loss, 1e-4 * want[i].aux_loss) << "step " << i;
      EXPECT_EQ(got.tokens, want[i].tokens);
      EXPECT_EQ(got.lr, want[i].lr);
      if (i < 5) {
        EXPECT_NEAR(got.grad_norm, want[i].grad_norm, 1e-4 * want[i].grad_norm) << "step " << i;
      }
    }
    EXPECT_EQ(t.consumed_samples, 30 * c.train.global_batch_size);
  }
}

INSTANTIATE_TEST_SUITE_P(From, ThirtySteps, ::testing::Values(Start::Copy, Start::SharedExpert),
                         [](const auto& info) { return info.param == Start::Copy ? "Copies" : "SharedExpert"; });

class SameLayout : public ::testing::TestWithParam<const char*> {};

TEST_P(SameLayout, TwiceIsBitwiseTheSameRun) {
  const Rig rig;
  Config c = config_of(Start::Copy, GetParam());
  c.parallel.dispatch_chunks = 3;
  c.parallel.imbalance_factor = 2;
  const FixedSequences data = data_of(c);
  Switches s;
  s.every = 2;
  const Fill fill = fill_of(s);
  for (const Parallelism& p : mixed_layouts()) {
    SCOPED_TRACE(p.text());
    const Mesh mesh = make_test_mesh(rig, p);
    Trainer a = start(rig, c, mesh, fill), b = start(rig, c, mesh, fill);
    for (int i = 0; i < 10; ++i) {
      const StepResult x = train_step(a, data.source()), y = train_step(b, data.source());
      EXPECT_EQ(x.loss, y.loss);
      EXPECT_EQ(x.aux_loss, y.aux_loss);
      EXPECT_EQ(x.grad_norm, y.grad_norm);
      check_replicas(a.optimizer, a.memory);
    }
    expect_same_state(state_of(a), state_of(b));
  }
}

INSTANTIATE_TEST_SUITE_P(Storage, SameLayout, ::testing::Values("fp32", "bf16"),
                         [](const auto& info) { return std::string(info.param); });

// Recomputing gives the same bits, on every layout: with rounds, and with chunks that travel.
TEST(Recompute, IsBitwiseTheSameOnEveryLayout) {
  const Rig rig;
  for (const bool rounds : {true, false}) {
    Switches s;
    s.start = Start::SharedExpert;
    s.tight = rounds;
    s.chunks = rounds ? 1 : 3;
    Config c = config_of(s);
    c.train.global_batch_size = 2 * c.train.micro_batch_size * mpi_session().size();
    const FixedSequences data = data_of(c);
    for (const Parallelism& p : legal_layouts(c.model)) {
      SCOPED_TRACE(p.text());
      const Mesh mesh = make_test_mesh(rig, p);
      c.train.recompute = "none";
      Trainer a = start(rig, c, mesh, random_fill());
      StepResult want[2];
      for (StepResult& x : want) x = train_step(a, data.source());
      const TrainedState state = state_of(a);
      for (const char* recompute : {rounds ? "full" : "selective", "attention,mlp,norms"}) {
        SCOPED_TRACE(recompute);
        c.train.recompute = recompute;
        Trainer b = start(rig, c, mesh, random_fill());
        for (const StepResult& x : want) {
          const StepResult y = train_step(b, data.source());
          EXPECT_EQ(x.loss, y.loss);
          EXPECT_EQ(x.grad_norm, y.grad_norm);
        }
        expect_same_state(state, state_of(b));
      }
    }
  }
}

}  // namespace
}  // namespace upcycle::test
