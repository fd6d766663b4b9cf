#include <gtest/gtest.h>

#include "parallel/train/step.h"
#include "tests/parity_mpi/models.h"

// Replicas over tp whose dp groups add in orders of their own: a difference needs three ranks of dp, so these run on
// six.
namespace upcycle::test {
namespace {

TEST(SixReplicas, StayEqualThoughSiblingGroupsAddInOtherOrders) {
  if (mpi_session().size() != 6) GTEST_SKIP() << "needs 6 ranks";
  const Rig rig;
  Switches s;
  s.start = Start::SharedExpert;
  Config c = config_of(s);
  c.train.micro_batch_size = 1;
  c.train.global_batch_size = 3;
  const FixedSequences data = random_sequences(6, c.train.seq_length, c.model.vocab_size, 7);
  const Mesh mesh = make_test_mesh(rig, Parallelism{2, 3, 1});
  Trainer t = make_trainer(c, mesh, *rig.device, *rig.stream, *rig.ops);
  random_fill()(t);
  for (int i = 0; i < 2; ++i) {
    (void)train_step(t, data.source());
    check_replicas(t.optimizer, t.memory);
  }
}

}  // namespace
}  // namespace upcycle::test
