#include <gtest/gtest.h>

#include "parallel/train/step.h"
#include "tests/parity_mpi/models.h"
#include "tests/train/rig.h"

// Runs whose optimizer keeps its state in another form than fp32, on several ranks.
namespace upcycle::test {
namespace {

// Masters beside their rounding: every rank's weights, masters and moments are those of fp32 masters.
TEST(StateForms, RemaindersTrainAsFp32Masters) {
  const Rig rig;
  const int world = mpi_session().size();
  std::vector<Parallelism> layouts = {{1, world, 1}};
  if (world % 2 == 0) layouts = {{1, 1, 1}, {2, 2, 1}, {2, 1, 2}};
  for (const Parallelism& p : layouts) {
    const Mesh mesh = make_test_mesh(rig, p);
    for (const char* optimizer : {"adamw", "lion"}) {
      SCOPED_TRACE(p.text() + " " + optimizer);
      Config c = small_moe_config();
      c.model.num_local_experts = 24;  // 2, 3, 4 and 8 ranks divide them
      c.dtype = "bf16";
      c.parallel.imbalance_factor = 8;
      c.train.optimizer = optimizer;
      c.train.seq_length = 8;
      c.train.micro_batch_size = 1;
      c.train.global_batch_size = 2 * world;
      const FixedSequences data = random_sequences(40, 8, c.model.vocab_size, 9);
      Trainer whole = random_trainer(rig, c, mesh);
      c.train.master_dtype = "bf16_remainder";
      Trainer split = random_trainer(rig, c, mesh);
      for (int i = 0; i < 4; ++i) {
        const StepResult want = train_step(whole, data.source()), got = train_step(split, data.source());
        EXPECT_EQ(got.loss, want.loss);
        EXPECT_EQ(got.grad_norm, want.grad_norm);
      }
      expect_same_state(state_of(split), state_of(whole));
      check_replicas(split.optimizer, split.memory);
    }
  }
}

}  // namespace
}  // namespace upcycle::test
