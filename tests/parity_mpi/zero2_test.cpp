#include <gtest/gtest.h>

#include "parallel/train/step.h"
#include "tests/parity_mpi/models.h"

// ZeRO-2 beside ZeRO-1 on the same layout.
namespace upcycle::test {
namespace {

// Of this rank, copies of rows replicated over tp too, after one step of a fresh trainer.
std::vector<std::vector<float>> owned_gradients(const Config& config, const Parallelism& p, const Fill& fill,
                                                const FixedSequences& data) {
  const Rig rig;
  const Mesh mesh = make_test_mesh(rig, p);
  Trainer t = make_trainer(config, mesh, *rig.device, *rig.stream, *rig.ops);
  fill(t);
  (void)compute_gradients(t, data.source());
  std::vector<std::vector<float>> all;
  for (const OwnedPiece& piece : owned_pieces(t.table(), mesh.at, true))
    all.push_back(floats_of(t, gradient_piece(t.table(), t.memory, piece)));
  return all;
}

// Sums over several microbatches are added in another order; those of one are the same sums.
TEST(Zero2, HasTheBitsOfZero1WhereEachRankHasOneMicrobatch) {
  for (const bool tied : {false, true}) {
    Switches s;
    s.tied = tied;
    Config c = config_of(s);
    for (const Parallelism& p : legal_layouts(c.model)) {
      if (!has_replicas(c.model, p)) continue;
      SCOPED_TRACE(p.text());
      c.train.global_batch_size = c.train.micro_batch_size * mpi_session().size() / p.tp;
      const FixedSequences data =
          random_sequences(c.train.global_batch_size, c.train.seq_length, c.model.vocab_size, 3);
      c.train.zero_stage = 1;
      const auto want = owned_gradients(c, p, random_fill(), data);
      c.train.zero_stage = 2;
      EXPECT_TRUE(owned_gradients(c, p, random_fill(), data) == want);
    }
  }
}

}  // namespace
}  // namespace upcycle::test
