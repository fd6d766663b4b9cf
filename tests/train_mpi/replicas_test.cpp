#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "parallel/model/transformer.h"
#include "tests/mpi_tests.h"
#include "tests/train/rig.h"

namespace upcycle::test {
namespace {

// A difference of one bit on one rank stops every rank and names the tensor.
void expect_found(const Rig& rig, const Config& config, const Mesh& mesh, const std::string& name) {
  Trainer t = random_trainer(rig, config, mesh);
  check_replicas(t.optimizer, t.memory);
  const ParamRow* row = t.table().find(name);
  ASSERT_NE(row, nullptr);
  const Tensor weights = view_row(*row, t.memory.weights.dense, t.memory.weights.expert);
  std::vector<float> w = floats_of(t, weights);
  float& x = w[w.size() / 2];
  if (mesh.rank == 1) x = std::nextafter(x, 100.0f);
  set_floats(t, weights, w);
  try {
    check_replicas(t.optimizer, t.memory);
    ADD_FAILURE() << "no Error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("replicas of " + name + " differ"), std::string::npos) << e.what();
  }
}

TEST(CheckReplicas, FindsADifferenceOverDp) {
  const Rig rig;
  const Mesh mesh = make_test_mesh(*rig.device, *rig.stream);
  expect_found(rig, small_config(), mesh, "model.layers.1.mlp.down_proj.weight");
  expect_found(rig, small_moe_config(), mesh, "model.layers.0.block_sparse_moe.experts.3.w2.weight");
}

TEST(CheckReplicas, FindsADifferenceOverTp) {
  const Rig rig;
  const Mesh mesh = make_test_mesh(*rig.device, *rig.stream, 2);
  Config dense = small_config(), moe = small_moe_config();
  dense.train.seq_length = moe.train.seq_length = 8;
  expect_found(rig, dense, mesh, "model.layers.1.input_layernorm.weight");
  expect_found(rig, moe, mesh, "model.layers.1.block_sparse_moe.gate.weight");
  expect_found(rig, moe, mesh, "model.layers.0.block_sparse_moe.experts.0.w1.weight");  // edp spans tp
}

// What is cut over tp is not replicated: it differs without being an error.
TEST(CheckReplicas, SlicesMayDiffer) {
  const Rig rig;
  const Mesh mesh = make_test_mesh(*rig.device, *rig.stream, 2);
  Config config = small_config();
  config.train.seq_length = 8;
  Trainer t = random_trainer(rig, config, mesh);
  const Tensor& qkv = t.model->weights.layers[0].qkv;
  std::vector<float> w = floats_of(t, qkv);
  if (mesh.rank == 1) w[0] += 1;
  set_floats(t, qkv, w);
  EXPECT_NO_THROW(check_replicas(t.optimizer, t.memory));
}

}  // namespace
}  // namespace upcycle::test
