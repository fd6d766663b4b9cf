#include <gtest/gtest.h>

#include "core/rng.h"
#include "parallel/model/weights.h"
#include "parallel/train/reduction.h"
#include "parallel/train/update.h"
#include "tests/mpi_tests.h"
#include "tests/train/rig.h"
#include "tests/train_mpi/pieces.h"

// ZeRO's update is one rank's, bit for bit, where the sum of gradients is: gradients here are made by hand, small whole
// numbers of which every sum is exact. (Gradients of a step differ in their last bits between layouts, and an update
// that takes only their sign would then differ as a whole where they are all but zero.)
namespace upcycle::test {
namespace {

struct Case {
  const char* name;
  const char* optimizer;
  int tp, ep, etp;
  const char* dtype;
  std::int64_t zero_stage = 1;
  const char* masters = "fp32";
  const char* moments = "fp32";
  bool groups = false;  // train.param_groups, and rates of embedding and output layer
};

// Of one element, on one of those whose gradients are added up.
float gradient(const ParamRow& row, std::int64_t element, int step, int rank) {
  const double x = rng::uniform(static_cast<std::uint64_t>(100 * step + rank), rng::key_of(row.name),
                                static_cast<std::uint64_t>(element));
  return static_cast<float>(static_cast<int>(9 * x) - 4);  // -4 to 4: a tenth are zero, and many sums
}

// The gradients of rank `rank` of the `ranks` that hold a row, or their sum.
struct Addends {
  int first, ranks;
};
Addends addends(const ParamRow& row, const Mesh& mesh, const Layout& layout, bool sum) {
  const bool expert = row.group == ParamGroup::Expert, over_tp = !expert && row.replicated_over_tp;
  const int ranks = expert ? layout.edp : over_tp ? layout.world : layout.dp;
  if (sum) return {0, ranks};
  return {expert ? mesh.at.edp : over_tp ? mesh.rank : mesh.at.dp, 1};
}

// What backward adds to the gradients of one part of the model.
void add_gradients(Trainer& t, std::int64_t layer, int step, const Layout& layout, bool sum) {
  for (const ParamRow& row : t.table().rows) {
    if (t.table().bucket_of(row).layer != layer) continue;
    const Tensor view(gradient_place(t.table(), t.memory, row).data, DType::F32, {row.part.size()});
    std::vector<float> values(static_cast<std::size_t>(view.size()), 0);
    const Addends a = addends(row, *t.mesh, layout, sum);
    for (std::int64_t i = 0; i < row.part.size(); ++i) {
      const std::int64_t r = row.part.row + i / row.part.columns, c = row.part.column + i % row.part.columns;
      for (int rank = a.first; rank < a.first + a.ranks; ++rank)
        values[static_cast<std::size_t>(i)] += gradient(row, r * row.columns + c, step, rank);
    }
    set_floats(t, view, values);
  }
}

void update(Trainer& t, int step, const Layout& layout, bool sum) {
  zero_gradients(t.optimizer, t.memory);
  start_backward(t.optimizer, t.memory);
  for (std::int64_t layer = t.config.model.num_hidden_layers; layer >= -1; --layer) {
    add_gradients(t, layer, step, layout, sum);
    start_reduction(t.optimizer, t.memory, layer, true);
  }
  finish_reduction(t.optimizer, t.memory);
  double& sum_squares = t.host_sums[t.host_sums.size() - 1];
  start_norm(t.optimizer, t.memory, sum_squares);
  t.stream->synchronize();
  clip_gradients(t.optimizer, t.memory, sum_squares);
  update_parameters(t.optimizer, t.memory, {1e-2, 3e-2});
}

class ShardedUpdate : public ::testing::TestWithParam<Case> {};

TEST_P(ShardedUpdate, IsOneRanksBitForBit) {
  const Rig rig;
  const Mesh mesh = make_test_mesh(*rig.device, *rig.stream, GetParam().tp, GetParam().ep, GetParam().etp),
             single = single_mesh(rig);
  Config c = small_moe_config();
  c.dtype = GetParam().dtype;
  c.train.optimizer = GetParam().optimizer;
  c.train.master_dtype = GetParam().masters;
  c.train.moment_dtype = GetParam().moments;
  c.train.micro_batch_size = 1;
  c.train.seq_length = 8;
  if (GetParam().groups) {
    c.train.param_groups = {{"*.gate.weight", 0.1, 0}, {"*.experts.[13].*", 2}, {"*norm*", 1, 0.2}};
    c.train.decoupled_lr = 1;
  }
  Trainer one = random_trainer(rig, c, single);
  c.train.zero_stage = GetParam().zero_stage;
  Trainer t = random_trainer(rig, c, mesh);
  const TrainedState before = state_of(one);
  for (int step = 0; step < 3; ++step) {
    update(t, step, mesh.layout, false);
    update(one, step, mesh.layout, true);
    EXPECT_EQ(floats_of(t, t.memory.scale), floats_of(one, one.memory.scale));
  }
  expect_pieces_of(t, one);
  check_replicas(t.optimizer, t.memory);
  for (const auto& [name, p] : state_of(one).parameters)
    EXPECT_FALSE(p.master == before.parameters.at(name).master) << name;
}

INSTANTIATE_TEST_SUITE_P(
    Ranks, ShardedUpdate,
    ::testing::Values(Case{"LionDp", "lion", 1, 1, 1, "fp32"}, Case{"LionTpEtp", "lion", 2, 1, 2, "fp32"},
                      Case{"LionEp", "lion", 1, 2, 1, "bf16"}, Case{"LionTpEp", "lion", 2, 2, 1, "bf16"},
                      Case{"AdamwDp", "adamw", 1, 1, 1, "bf16"}, Case{"SgdDp", "sgd", 1, 1, 1, "fp32"},
                      Case{"LionDpZero2", "lion", 1, 1, 1, "bf16", 2},
                      Case{"AdamwEpZero2", "adamw", 1, 2, 1, "fp32", 2},
                      Case{"LionTpZero2", "lion", 2, 1, 1, "fp32", 2},
                      Case{"AdamwDpGroups", "adamw", 1, 1, 1, "fp32", 1, "fp32", "fp32", true},
                      Case{"LionDpZero2Groups", "lion", 1, 1, 1, "bf16", 2, "fp32", "fp32", true},
                      Case{"AdamwEpGroups", "adamw", 1, 2, 1, "bf16", 1, "bf16_remainder", "bf16", true},
                      Case{"AdamwEpZero2Groups", "adamw", 1, 2, 1, "fp32", 2, "fp32", "fp32", true},
                      Case{"SgdTpGroups", "sgd", 2, 1, 1, "bf16", 1, "bf16_remainder", "fp32", true},
                      Case{"LionTpEpRemainders", "lion", 2, 2, 1, "bf16", 1, "bf16_remainder"},
                      Case{"AdamwDpRemainders", "adamw", 1, 1, 1, "bf16", 1, "bf16_remainder"},
                      Case{"LionTpEpRoundedMoments", "lion", 2, 2, 1, "bf16", 1, "fp32", "bf16"},
                      Case{"AdamwDpRoundedMoments", "adamw", 1, 1, 1, "bf16", 1, "bf16_remainder", "bf16"},
                      Case{"AdamwTpEtpRoundedMoments", "adamw", 2, 1, 2, "fp32", 1, "fp32", "bf16"},
                      Case{"AdamwEpRoundedMoments", "adamw", 1, 2, 1, "bf16", 1, "bf16_remainder", "bf16"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace upcycle::test
