#include <gtest/gtest.h>

#include <algorithm>

#include "parallel/train/step.h"
#include "tests/parity_mpi/models.h"

// Rates by parameter and a batch that grows are invisible to the layout: the same sequences in the same steps, the same
// losses as one rank.
namespace upcycle::test {
namespace {

Config ramped(const Switches& s) {
  Config c = config_of(s);
  const std::int64_t unit = c.train.micro_batch_size * mpi_session().size();
  c.train.global_batch_size = 3 * unit;
  c.train.rampup_batch_size = {unit, unit, 4 * unit};  // steps of 1, 1, 2, 3, 3 units
  c.train.steps = 5;
  c.train.lr = 3e-3;
  c.train.min_lr = 3e-4;
  c.train.warmup_steps = 2;
  c.train.param_groups = {{"*.gate.weight", 0.3, 0}, {"*.experts.*", 2, 0.2}, {"*norm*", 1, 0.1}};
  c.train.decoupled_lr = 5e-3;
  return c;
}

struct Step {
  StepResult result;
  std::vector<std::int64_t> read;  // sequences, in the order in which this rank asked for them
};

std::vector<Step> train(Trainer& t, const FixedSequences& data) {
  std::vector<Step> steps;
  while (t.step < t.config.train.steps) {
    Step step;
    const SequenceSource from = data.source();
    step.result = train_step(t, [&](std::int64_t i, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
      step.read.push_back(i);
      from(i, tokens, targets);
    });
    check_replicas(t.optimizer, t.memory);
    steps.push_back(step);
  }
  return steps;
}

TEST(RatesAndRamp, AreOneRanksOnEveryLayout) {
  const Rig rig, cpu = cpu_rig();
  const Mesh single = single_mesh(cpu);
  Switches s;
  s.start = Start::SharedExpert;
  Config c = ramped(s);
  const std::int64_t unit = c.train.rampup_batch_size[0], whole = c.train.global_batch_size;
  const FixedSequences data = random_sequences(2 * whole, c.train.seq_length, c.model.vocab_size, 7);
  const Fill fill = fill_of(s);
  std::vector<Step> want;
  if (mpi_session().rank() == 0) {  // the others wait at the first collective
    Trainer one = make_trainer(c, single, *cpu.device, *cpu.stream, *cpu.ops);
    fill(one);
    want = train(one, data);
    EXPECT_EQ(want[0].result.samples, unit);
    EXPECT_EQ(want[2].result.samples, 2 * unit);
    EXPECT_EQ(want[3].result.samples, whole);
  }
  int turn = 0;
  for (const Parallelism& p : legal_layouts(c.model)) {
    for (const int zero : {1, 2}) {
      if (zero == 2 && !has_replicas(c.model, p)) continue;
      if (mpi_session().size() == 8 && ++turn % 3 != 1) continue;  // of some thirty: each takes seconds on few cores
      SCOPED_TRACE(p.text() + " zero " + std::to_string(zero));
      c.train.zero_stage = zero;
      const Mesh mesh = make_test_mesh(rig, p);
      Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
      fill(t);
      const std::vector<Step> got = train(t, data);
      std::int64_t consumed = 0;
      for (std::size_t i = 0; i < got.size(); ++i) {
        SCOPED_TRACE(i);
        const StepResult& r = got[i].result;
        const std::int64_t mine = r.samples / mesh.layout.dp;
        ASSERT_EQ(static_cast<std::int64_t>(got[i].read.size()), mine);
        for (std::int64_t j = 0; j < mine; ++j)
          EXPECT_EQ(got[i].read[static_cast<std::size_t>(j)], consumed + mine * mesh.at.dp + j);
        consumed += r.samples;
        if (mesh.rank != 0) continue;
        EXPECT_EQ(r.samples, want[i].result.samples);
        EXPECT_EQ(r.tokens, want[i].result.tokens);
        EXPECT_EQ(r.lr, want[i].result.lr);
        EXPECT_EQ(r.decoupled_lr, want[i].result.decoupled_lr);
        EXPECT_NEAR(r.loss, want[i].result.loss, 1e-5 * want[i].result.loss);
        EXPECT_NEAR(r.grad_norm, want[i].result.grad_norm, 1e-4 * want[i].result.grad_norm);
      }
      EXPECT_EQ(t.consumed_samples, consumed);
      EXPECT_EQ(t.tokens, consumed * c.train.seq_length);
    }
  }
}

}  // namespace
}  // namespace upcycle::test
