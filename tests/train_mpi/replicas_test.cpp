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

}  // namespace
}  // namespace upcycle::test
