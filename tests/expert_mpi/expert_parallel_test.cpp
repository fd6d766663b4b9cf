#include <gtest/gtest.h>

#include <cmath>

#include "tests/mpi_tests.h"
#include "tests/train/rig.h"

// Expert parallelism against one rank: every legal layout of this world, with the switches that change the experts'
// way.
namespace upcycle::test {
namespace {

struct Layouts {
  int tp, ep, etp;
};
std::vector<Layouts> legal_layouts(int world, std::int64_t E, std::int64_t K, std::int64_t moe_F) {
  std::vector<Layouts> all;
  for (int tp = 1; tp <= world; ++tp) {
    if (world % tp != 0 || K % tp != 0) continue;
    for (const int etp : tp == 1 ? std::vector<int>{1} : std::vector<int>{1, tp})
      for (int ep = 1; etp * ep <= world; ++ep)
        if (world % (etp * ep) == 0 && E % ep == 0 && moe_F % etp == 0) all.push_back({tp, ep, etp});
  }
  return all;
}

Config config_of() {
  Config c = small_moe_config();
  c.model.num_attention_heads = c.model.num_key_value_heads = 4;
  c.model.num_local_experts = 8;
  c.model.moe_intermediate_size = 16;
  c.model.intermediate_size = 24;
  c.train.seq_length = 8;
  c.train.micro_batch_size = 2;
  c.train.global_batch_size = 16;
  c.train.lr = 3e-3;
  return c;
}

FixedSequences sequences_of(const Config& c) {
  FixedSequences f = random_sequences(32, c.train.seq_length, c.model.vocab_size, 3);
  for (std::size_t i = 0; i < f.targets.size(); i += i % 5 + 2) f.targets[i] = -1;
  return f;
}

// Raw gradients of every parameter, wherever their owners are, against one rank's. Walks the reference's table: experts
// of other ranks are not in this rank's.
void expect_parity(const Trainer& t, const Trainer& reference) {
  double all = 0;
  for (const ParamRow& row : reference.model->table.rows) all += std::pow(norm(gradient_of(reference, row)), 2);
  all = std::sqrt(all);
  const std::vector<OwnedPiece> owned = owned_pieces(t.model->table, t.mesh->at, false);
  for (const ParamRow& row : reference.model->table.rows) {
    const std::vector<float> g0 = gradient_of(reference, row);
    double difference = 0;
    std::int64_t elements = 0;
    for (const OwnedPiece& p : owned) {
      if (p.row->name != row.name) continue;
      elements += p.part.size();
      const float* g = piece_of(t.memory.grads, p).as<float>();
      for (std::int64_t i = 0; i < p.part.size(); ++i) {
        const std::int64_t r = p.part.row + i / p.part.columns, c = p.part.column + i % p.part.columns;
        difference += std::pow(double(g[i]) - g0[static_cast<std::size_t>(r * row.columns + c)], 2);
      }
    }
    ASSERT_EQ(t.mesh->world->sum_of(static_cast<double>(elements)), static_cast<double>(row.global_size())) << row.name;
    difference = std::sqrt(t.mesh->world->sum_of(difference));
    EXPECT_LE(difference, 1e-5 * norm(g0) + 1e-7 * all) << row.name << ", norm " << norm(g0) << " of " << all;
  }
}

// `adjust` changes weights alike on every layout.
void compare_all_layouts(const Config& config, const std::function<void(Trainer&)>& adjust = {}) {
  const Rig rig;
  const FixedSequences sequences = sequences_of(config);
  const Mesh single = make_single_mesh();
  Trainer reference = random_trainer(rig, config, single);
  if (adjust) adjust(reference);
  const StepResult want = compute_gradients(reference, sequences.source());
  for (const Layouts& l : legal_layouts(mpi_session().size(), config.model.num_local_experts, config.model.kv_heads(),
                                        config.model.expert_size())) {
    SCOPED_TRACE(fmt::format("tp {} ep {} etp {}", l.tp, l.ep, l.etp));
    const Mesh mesh = make_test_mesh(l.tp, l.ep, l.etp);
    Trainer t = random_trainer(rig, config, mesh);
    if (adjust) adjust(t);
    const StepResult got = compute_gradients(t, sequences.source());
    EXPECT_NEAR(got.loss, want.loss, 1e-6 * want.loss);
    EXPECT_NEAR(got.aux_loss, want.aux_loss, 1e-6);
    EXPECT_NEAR(got.z_loss, want.z_loss, 1e-6 * (1 + want.z_loss));
    expect_parity(t, reference);
  }
}

TEST(ExpertParallel, EveryLayoutGivesOneRanksGradients) { compare_all_layouts(config_of()); }

TEST(ExpertParallel, OneExpertATokenSwitchOrder) {
  Config c = config_of();
  c.model.num_experts_per_tok = 1;
  c.model.router_softmax = "softmax_then_topk";
  c.train.recompute = "full";
  compare_all_layouts(c);
}

TEST(ExpertParallel, SharedExpertAndDenseLayersBetween) {
  Config c = config_of();
  c.model.shared_expert = true;
  c.model.moe_every_n_layers = 2;
  compare_all_layouts(c);
}

// Every router row but two is far below: all tokens go to experts 0 and 1, so the ranks that hold them work in rounds
// and the others have no tokens at all.
void send_all_to_two(Trainer& t) {
  for (const ParamRow& row : t.model->table.rows) {
    if (!row.name.ends_with("block_sparse_moe.gate.weight")) continue;
    const Tensor w = view_row(row, t.memory.weights.dense, t.memory.weights.expert);
    for (std::int64_t e = 2; e < row.rows; ++e)
      for (std::int64_t h = 0; h < row.columns; ++h)
        w.as<float>()[e * row.columns + h] = w.as<float>()[h];  // a tie with 0
  }
}

TEST(ExpertParallel, AllTokensToTwoExpertsInRounds) {
  Config c = config_of();
  c.parallel.imbalance_factor = 1;
  for (const char* recompute : {"none", "full"}) {
    c.train.recompute = recompute;
    compare_all_layouts(c, send_all_to_two);
  }
}

TEST(ExpertParallel, TrainsAsOneRankAndReplicasStayEqual) {
  const Config config = config_of();
  const Rig rig;
  const FixedSequences sequences = sequences_of(config);
  const Mesh single = make_single_mesh();
  for (const Layouts& l : legal_layouts(mpi_session().size(), 8, 4, 16)) {
    if (l.ep == 1) continue;
    SCOPED_TRACE(fmt::format("tp {} ep {} etp {}", l.tp, l.ep, l.etp));
    const Mesh mesh = make_test_mesh(l.tp, l.ep, l.etp);
    Trainer t = random_trainer(rig, config, mesh), reference = random_trainer(rig, config, single);
    for (int i = 0; i < 4; ++i) {
      const StepResult got = train_step(t, sequences.source()), want = train_step(reference, sequences.source());
      EXPECT_NEAR(got.loss, want.loss, 1e-5 * want.loss) << "step " << i;
      EXPECT_NEAR(got.grad_norm, want.grad_norm, 1e-4 * want.grad_norm) << "step " << i;
      check_replicas(t.optimizer, t.memory);
    }
  }
}

}  // namespace
}  // namespace upcycle::test
