#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/mpi_tests.h"
#include "tests/train/rig.h"

// Two ranks against one: the reference runs in the same process, on a mesh of one rank.
namespace upcycle::test {
namespace {

struct Case {
  const char* name;
  bool moe;
  int tp;
  bool tied = false;
  bool shared_expert = false;
  const char* order = "topk_then_softmax";
  const char* recompute = "none";
};

Config config_of(const Case& c) {
  Config config = c.moe ? small_moe_config() : small_config();
  config.model.tie_word_embeddings = c.tied;
  config.model.shared_expert = c.shared_expert;
  config.model.router_softmax = c.order;
  config.train.recompute = c.recompute;
  config.train.seq_length = 8;
  config.train.micro_batch_size = 2;
  config.train.global_batch_size = 8;
  config.train.lr = 3e-3;
  config.train.warmup_steps = 2;
  return config;
}

// Two ranks of micro_batch_size 2 hold 4 microbatches; targets are masked unevenly, one whole sequence among them.
FixedSequences masked_sequences(const Config& c) {
  FixedSequences f = random_sequences(16, c.train.seq_length, c.model.vocab_size, 3);
  for (std::size_t i = 0; i < f.targets.size(); i += i % 5 + 2) f.targets[i] = -1;
  for (std::size_t i = 8; i < 16; ++i) f.targets[i] = -1;
  return f;
}

class Parity : public ::testing::TestWithParam<Case> {
 protected:
  Rig rig;
  Config config = config_of(GetParam());
  FixedSequences sequences = masked_sequences(config);
  Mesh mesh = make_test_mesh(GetParam().tp), single = make_single_mesh();
};

// Every rank's microbatches route as the same microbatches on one rank, and no choice is so close that rounding makes
// it: without this a difference of gradients would say nothing.
void expect_equal_routing(const Rig& rig, const Config& config, const Trainer& t, const Mesh& single,
                          const FixedSequences& sequences) {
  Config one = config;
  one.train.global_batch_size = config.train.micro_batch_size;
  const std::int64_t micros = config.train.global_batch_size / config.train.micro_batch_size;
  const std::int64_t last = micros / t.mesh->layout.dp * (t.mesh->at.dp + 1) - 1;  // of this rank
  Trainer reference = random_trainer(rig, one, single);
  for (std::int64_t j = 0; j < micros; ++j) {
    reference.consumed_samples = j * config.train.micro_batch_size;
    (void)compute_gradients(reference, sequences.source());
    for (std::int64_t l = 0; l < config.model.num_hidden_layers; ++l) {
      EXPECT_GT(smallest_gap(reference, l), 1e-4);
      if (j != last) continue;
      const std::vector<std::int32_t> all = chosen_experts(reference, l), mine = chosen_experts(t, l);
      const std::size_t begin = mine.size() * static_cast<std::size_t>(t.mesh->at.tp);
      ASSERT_EQ(all.size(), mine.size() * static_cast<std::size_t>(t.mesh->layout.tp));
      EXPECT_TRUE(std::equal(mine.begin(), mine.end(), all.begin() + static_cast<std::ptrdiff_t>(begin)));
    }
  }
}

// By the measure of parity, each element from its owner. Returns the norm of the reference's whole gradient.
double expect_equal_gradients(const Trainer& t, const Trainer& reference) {
  double all = 0;
  for (const ParamRow& row : reference.model->table.rows) all += std::pow(norm(gradient_of(reference, row)), 2);
  all = std::sqrt(all);
  const std::vector<OwnedPiece> owned = owned_pieces(t.model->table, t.mesh->at, false);
  for (const ParamRow& row : t.model->table.rows) {
    const ParamRow* whole = reference.model->table.find(row.name);
    UPCYCLE_CHECK(whole != nullptr, "no parameter {}", row.name);
    const std::vector<float> g0 = gradient_of(reference, *whole);
    double difference = 0;
    std::int64_t elements = 0;
    for (const OwnedPiece& p : owned) {
      if (p.row != &row) continue;
      elements += p.part.size();
      const float* g = piece_of(t.memory.grads, p).as<float>();
      for (std::int64_t i = 0; i < p.part.size(); ++i) {
        const std::int64_t r = p.part.row + i / p.part.columns, c = p.part.column + i % p.part.columns;
        difference += std::pow(double(g[i]) - g0[static_cast<std::size_t>(r * row.columns + c)], 2);
      }
    }
    EXPECT_EQ(t.mesh->world->sum_of(static_cast<double>(elements)), static_cast<double>(row.global_size())) << row.name;
    difference = std::sqrt(t.mesh->world->sum_of(difference));
    EXPECT_LE(difference, 1e-5 * norm(g0) + 1e-7 * all) << row.name << ", norm " << norm(g0) << " of " << all;
  }
  return all;
}

TEST_P(Parity, LossNormAndEveryRawGradientEqualOneRanks) {
  Trainer t = random_trainer(rig, config, mesh), reference = random_trainer(rig, config, single);
  const StepResult got = compute_gradients(t, sequences.source());
  const StepResult want = compute_gradients(reference, sequences.source());
  if (config.model.is_moe()) expect_equal_routing(rig, config, t, single, sequences);
  EXPECT_NEAR(got.loss, want.loss, 1e-6 * want.loss);
  EXPECT_NEAR(got.aux_loss, want.aux_loss, 1e-6);
  EXPECT_NEAR(got.z_loss, want.z_loss, 1e-6 * (1 + want.z_loss));
  ASSERT_EQ(got.layers.size(), want.layers.size());
  for (std::size_t l = 0; l < got.layers.size(); ++l) {
    EXPECT_NEAR(got.layers[l].load_max_over_mean, want.layers[l].load_max_over_mean, 1e-9);
    EXPECT_NEAR(got.layers[l].entropy, want.layers[l].entropy, 1e-6);
  }

  const double all = expect_equal_gradients(t, reference);
  EXPECT_NEAR(clip_gradients(t.optimizer, t.memory), all, 1e-5 * all);
}

TEST_P(Parity, ReplicasStayEqualAndTheLossTracksOneRanks) {
  Trainer t = random_trainer(rig, config, mesh), reference = random_trainer(rig, config, single);
  for (int i = 0; i < 5; ++i) {
    const StepResult got = train_step(t, sequences.source()), want = train_step(reference, sequences.source());
    EXPECT_NEAR(got.loss, want.loss, 1e-5 * want.loss) << "step " << i;
    EXPECT_NEAR(got.grad_norm, want.grad_norm, 1e-4 * want.grad_norm) << "step " << i;
    EXPECT_EQ(got.tokens, want.tokens);
    EXPECT_EQ(got.lr, want.lr);
    check_replicas(t.optimizer, t.memory);
  }
  EXPECT_EQ(t.consumed_samples, reference.consumed_samples);
}

// A rank whose share of the batch counts for nothing still reaches every collective.
TEST(Numerics, ZeroValidTargetsOnARank) {
  const Rig rig;
  const Mesh mesh = make_test_mesh(), single = make_single_mesh();
  Config config = small_moe_config();
  for (const std::size_t masked : {18, 36}) {  // the second rank's sequences, then all
    FixedSequences data = random_sequences(4, 9, config.model.vocab_size, 4);
    std::fill(data.targets.end() - static_cast<std::ptrdiff_t>(masked), data.targets.end(), -1);
    Trainer t = random_trainer(rig, config, mesh), reference = random_trainer(rig, config, single);
    const StepResult got = compute_gradients(t, data.source()), want = compute_gradients(reference, data.source());
    EXPECT_NEAR(got.loss, want.loss, 1e-6 * want.loss);
    EXPECT_NEAR(got.aux_loss, want.aux_loss, 1e-6);
    EXPECT_EQ(expect_equal_gradients(t, reference) > 0, masked == 18);
  }
}

// Ties send every token to experts 0 and 1: the others have none on any rank.
TEST(Numerics, ZeroTokensForAnExpert) {
  const Rig rig;
  const Mesh single = make_single_mesh();
  for (const int tp : {1, 2}) {
    const Mesh mesh = make_test_mesh(tp);
    Config config = small_moe_config();
    config.train.seq_length = 8;
    const FixedSequences data = random_sequences(4, 8, config.model.vocab_size, 4);
    Trainer t = random_trainer(rig, config, mesh), reference = random_trainer(rig, config, single);
    for (Trainer* x : {&t, &reference})
      for (const LayerWeights& w : x->model->weights.layers) rig.ops->fill(*rig.stream, w.router, 0);
    (void)compute_gradients(t, data.source());
    (void)compute_gradients(reference, data.source());
    expect_equal_gradients(t, reference);
    EXPECT_EQ(norm(gradient_of(t, *t.model->table.find("model.layers.0.block_sparse_moe.experts.3.w1.weight"))), 0);
  }
}

TEST(MakeTrainer, TokensThatTpCanNotCutAreRefused) {
  const Rig rig;
  const Mesh mesh = make_test_mesh(2);
  Config config = small_config();  // S 9
  config.train.micro_batch_size = 1;
  try {
    (void)make_trainer(config, mesh, *rig.device, *rig.stream, *rig.ops);
    ADD_FAILURE() << "no InputError";
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("= 9 tokens can not be cut over parallel.tp = 2"), std::string::npos)
        << e.what();
  }
}

INSTANTIATE_TEST_SUITE_P(
    TwoRanks, Parity,
    ::testing::Values(Case{"DenseDp", false, 1}, Case{"DenseTp", false, 2}, Case{"DenseTiedDp", false, 1, true},
                      Case{"DenseTiedTp", false, 2, true},
                      Case{"DenseTpRecompute", false, 2, false, false, "topk_then_softmax", "full"},
                      Case{"MoeDp", true, 1}, Case{"MoeTp", true, 2}, Case{"MoeTiedTp", true, 2, true},
                      Case{"MoeSharedExpertTp", true, 2, false, true, "softmax_then_topk"},
                      Case{"MoeSwitchDp", true, 1, false, false, "softmax_then_topk"},
                      Case{"MoeTpRecompute", true, 2, false, true, "topk_then_softmax", "full"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace upcycle::test
