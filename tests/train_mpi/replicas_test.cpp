#include <gtest/gtest.h>

#include <cmath>

#include "tests/mpi_tests.h"
#include "tests/train/rig.h"

namespace upcycle::test {
namespace {

// A difference of one bit on one rank stops every rank and names the tensor.
void expect_found(const Config& config, const Mesh& mesh, const std::string& name) {
  const Rig rig;
  Trainer t = random_trainer(rig, config, mesh);
  check_replicas(t.optimizer, t.memory);
  const ParamRow* row = t.model->table.find(name);
  ASSERT_NE(row, nullptr);
  const Tensor weights = view_row(*row, t.memory.weights.dense, t.memory.weights.expert);
  float& x = weights.as<float>()[weights.size() / 2];
  if (mesh.rank == 1) x = std::nextafter(x, 100.0f);
  try {
    check_replicas(t.optimizer, t.memory);
    ADD_FAILURE() << "no Error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("replicas of " + name + " differ"), std::string::npos) << e.what();
  }
}

TEST(CheckReplicas, FindsADifferenceOverDp) {
  const Mesh mesh = make_test_mesh();
  expect_found(small_config(), mesh, "model.layers.1.mlp.down_proj.weight");
  expect_found(small_moe_config(), mesh, "model.layers.0.block_sparse_moe.experts.3.w2.weight");
}

TEST(CheckReplicas, FindsADifferenceOverTp) {
  const Mesh mesh = make_test_mesh(2);
  Config dense = small_config(), moe = small_moe_config();
  dense.train.seq_length = moe.train.seq_length = 8;
  expect_found(dense, mesh, "model.layers.1.input_layernorm.weight");
  expect_found(moe, mesh, "model.layers.1.block_sparse_moe.gate.weight");
  expect_found(moe, mesh, "model.layers.0.block_sparse_moe.experts.0.w1.weight");  // edp spans tp
}

// What is cut over tp is no replica: it differs and is no error.
TEST(CheckReplicas, SlicesMayDiffer) {
  const Rig rig;
  const Mesh mesh = make_test_mesh(2);
  Config config = small_config();
  config.train.seq_length = 8;
  Trainer t = random_trainer(rig, config, mesh);
  if (mesh.rank == 1) t.model->weights.layers[0].qkv.as<float>()[0] += 1;
  EXPECT_NO_THROW(check_replicas(t.optimizer, t.memory));
}

TEST(Numerics, DataOrderIndependentOfLayout) {
  const Rig rig;
  for (const int tp : {1, 2}) {
    const Mesh mesh = make_test_mesh(tp);
    Config config = small_config();
    config.train.seq_length = 8;
    config.train.global_batch_size = 8;
    Trainer t = random_trainer(rig, config, mesh);
    const FixedSequences data = random_sequences(8, 8, config.model.vocab_size, 1);
    for (std::int64_t step = 0; step < 2; ++step) {
      std::string asked;
      (void)train_step(t, [&](std::int64_t index, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
        asked += std::to_string(index - 8 * step);
        data.source()(index, tokens, targets);
      });
      EXPECT_EQ(mesh.dp->gather_text(asked), "01234567");
    }
  }
}

// The load-balancing loss belongs to a microbatch, so it tells how sequences were put together: two ranks of
// micro_batch_size 1 form the microbatches of one rank of micro_batch_size 1, not of 2.
TEST(Numerics, MicrobatchesAreGlobal) {
  const Rig rig;
  const Mesh mesh = make_test_mesh(), single = make_single_mesh();
  Config config = small_moe_config();
  config.train.micro_batch_size = 1;
  const FixedSequences data = random_sequences(4, 9, config.model.vocab_size, 1);
  const auto aux_of = [&](const Mesh& on) {
    Trainer t = random_trainer(rig, config, on);
    return compute_gradients(t, data.source()).aux_loss;
  };
  const double two_ranks = aux_of(mesh), one_rank = aux_of(single);
  EXPECT_NEAR(two_ranks, one_rank, 1e-6);
  config.train.micro_batch_size = 2;
  EXPECT_NEAR(aux_of(mesh), aux_of(single), 1e-6);
  EXPECT_GT(std::abs(aux_of(single) - one_rank), 1e-3);
}

// Freezing, too, is the same on every layout: the norm counts what one rank counts.
TEST(Numerics, GradientNormCountsEveryElementOnceWithFrozenRows) {
  const Rig rig;
  const Mesh single = make_single_mesh();
  for (const int tp : {1, 2}) {
    const Mesh mesh = make_test_mesh(tp);
    Config config = small_moe_config();
    config.train.seq_length = 8;
    config.train.freeze = {"*norm.weight", "*.gate.weight", "lm_head.weight"};
    const FixedSequences data = random_sequences(8, 8, config.model.vocab_size, 1);
    Trainer t = random_trainer(rig, config, mesh), reference = random_trainer(rig, config, single);
    const double want = train_step(reference, data.source()).grad_norm;
    EXPECT_NEAR(train_step(t, data.source()).grad_norm, want, 1e-5 * want);
  }
}

}  // namespace
}  // namespace upcycle::test
