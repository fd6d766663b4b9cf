#include <gtest/gtest.h>

#include "tests/parity_mpi/parity.h"

namespace upcycle::test {
namespace {

// About 30 million parameters, most of them the vocabulary's.
TEST(ThirtyMillionParameters, VocabularyThatTpDoesNotDivide) {
  if (mpi_session().size() != 4) return;  // the same model on other worlds would test nothing more
  Config c = small_config();
  c.model.hidden_size = 256;
  c.model.num_attention_heads = c.model.num_key_value_heads = 4;
  c.model.head_dim = 64;
  c.model.intermediate_size = c.model.moe_intermediate_size = 1024;
  c.model.num_local_experts = 8;
  c.model.num_experts_per_tok = 2;
  c.model.vocab_size = 32003;
  c.model.initializer_range = 0.05;
  c.model.router_aux_loss_coef = 0.05;
  c.train.optimizer = "sgd";
  c.train.seq_length = 16;
  c.train.micro_batch_size = 1;
  c.train.global_batch_size = 4;
  EXPECT_NEAR(static_cast<double>(count_parameters(c.model).total), 30e6, 1e6);
  const FixedSequences data = random_sequences(c.train.global_batch_size, c.train.seq_length, c.model.vocab_size, 1);
  // The spread of the small models' logits (H 20). With 0.5 it would be 8, and the last bit of a logit moves the
  // gradients below by as much as parity allows: two right answers, of the CPU's layouts too, then differ by that.
  const Fill fill = random_fill(0.14);
  const Reference want = one_rank_reference(c, fill, data);
  ASSERT_GT(want.gap, 1e-4);
  for (const Parallelism& p : {Parallelism{2, 2, 2}, Parallelism{4, 4, 1}}) compare_layout(c, p, fill, data, want);
}

}  // namespace
}  // namespace upcycle::test
