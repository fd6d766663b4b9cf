#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "parallel/model/transformer.h"
#include "tests/train/rig.h"

// The numerics rules that one rank can test; tests/train_mpi tests those of several ranks.
namespace upcycle {
namespace {

const Rig rig;
const Mesh mesh = single_mesh(rig);

void zero_routers(Trainer& t) {
  for (const ParamRow& row : t.table().rows)
    if (row.name.ends_with("block_sparse_moe.gate.weight"))
      rig.ops->fill(*rig.stream, view_row(row, t.memory.weights.dense, t.memory.weights.expert), 0);
}

std::vector<float> gradients_of(const Trainer& t) {
  std::vector<float> all;
  for (const ParamRow& row : t.table().rows) {
    const std::vector<float> g = gradient_of(t, row);
    all.insert(all.end(), g.begin(), g.end());
  }
  return all;
}

TEST(Numerics, UniformRoutingGivesAuxLossOne) {
  for (const std::int64_t k : {1, 2, 3, 4}) {
    for (const std::int64_t every : {1, 2}) {
      Config c = small_moe_config();
      c.model.num_experts_per_tok = k;
      c.model.moe_every_n_layers = every;
      c.model.router_aux_loss_coef = 7;  // the log is before the coefficient
      Trainer t = random_trainer(rig, c, mesh);
      const FixedSequences data = random_sequences(4, 9, c.model.vocab_size, 1);
      if (k == 4) {
        EXPECT_NEAR(compute_gradients(t, data.source()).aux_loss, 1, 1e-6);  // every expert gets every token
      }
      zero_routers(t);
      const StepResult r = compute_gradients(t, data.source());
      EXPECT_NEAR(r.aux_loss, 1, 1e-6);
      EXPECT_NEAR(r.z_loss, std::pow(std::log(4.0), 2), 1e-6);
      EXPECT_NEAR(r.layers[1].entropy, std::log(4.0), 1e-6);
      EXPECT_EQ(r.layers[0].entropy != 0, every == 1);
    }
  }
}

// Under router_aux_loss_scope = global_batch f_e is of the step's microbatches so far, P_e of the microbatch; every
// step begins anew.
TEST(Numerics, AuxLossOfTheGlobalBatchCountsTheMicrobatchesSoFar) {
  Config c = small_moe_config();
  c.train.global_batch_size = 2;
  FixedSequences data = random_sequences(4, 9, c.model.vocab_size, 2);
  std::fill(data.targets.begin() + 18, data.targets.begin() + 29, -1);  // 18 valid targets, then 7
  Trainer one = random_trainer(rig, c, mesh);
  std::vector<double> stats[2][2];  // microbatch, layer: assignments, sums of probabilities
  for (int j = 0; j < 2; ++j) {
    one.consumed_samples = 2 * j;
    (void)compute_gradients(one, data.source());
    for (std::size_t l = 0; l < 2; ++l)
      stats[j][l] = values_of<double>(one, one.model->activations.layers[l].moe.router.stats);
  }
  double want = 0, of_microbatches = 0;
  for (std::size_t l = 0; l < 2; ++l)
    for (std::size_t e = 0; e < 4; ++e) {
      const double f[] = {stats[0][l][e] / 18, stats[1][l][e] / 18}, both = (f[0] + f[1]) / 2;
      const double P[] = {stats[0][l][4 + e] / 18, stats[1][l][4 + e] / 18};
      want += (18 * f[0] * P[0] + 7 * both * P[1]) / 25;
      of_microbatches += (18 * f[0] * P[0] + 7 * f[1] * P[1]) / 25;
    }
  EXPECT_GT(std::abs(want - of_microbatches), 1e-3);
  c.train.global_batch_size = 4;
  c.model.router_aux_loss_scope = "global_batch";
  Trainer both = random_trainer(rig, c, mesh);
  for (int step = 0; step < 2; ++step) EXPECT_NEAR(compute_gradients(both, data.source()).aux_loss, want, 1e-6);
}

// (E/k) sum_e f_e P_e, from the saved probabilities and choices; microbatches weighted by their valid tokens.
TEST(Numerics, AuxLossIsTheFormulaWeightedByValidTokens) {
  Config c = small_moe_config();
  c.train.global_batch_size = 2;
  FixedSequences data = random_sequences(4, 9, c.model.vocab_size, 2);
  std::fill(data.targets.begin() + 18, data.targets.begin() + 29, -1);  // 18 valid targets, then 7
  Trainer one = random_trainer(rig, c, mesh);
  double aux[2], z[2];
  for (int j = 0; j < 2; ++j) {
    one.consumed_samples = 2 * j;
    const StepResult r = compute_gradients(one, data.source());
    double expected = 0, expected_z = 0;
    for (std::int64_t l = 0; l < 2; ++l) {
      const RouterState& router = one.model->activations.layers[static_cast<std::size_t>(l)].moe.router;
      const std::vector<std::int32_t> chosen = chosen_experts(one, l);
      const std::vector<float> probs = floats_of(one, router.probs), lse = floats_of(one, router.lse);
      for (std::int64_t e = 0; e < 4; ++e) {
        const double f = static_cast<double>(std::count(chosen.begin(), chosen.end(), e)) / 18;
        double P = 0;
        for (std::size_t row = 0; row < 18; ++row) P += probs[row * 4 + static_cast<std::size_t>(e)] / 18;
        expected += 4.0 / 2 * f * P / 2;
      }
      for (const float x : lse) expected_z += std::pow(x, 2) / 18 / 2;
    }
    EXPECT_NEAR(r.aux_loss, expected, 1e-6);
    EXPECT_NEAR(r.z_loss, expected_z, 1e-5);
    aux[j] = r.aux_loss;
    z[j] = r.z_loss;
  }
  EXPECT_GT(std::abs(aux[0] - aux[1]), 1e-3);
  c.train.global_batch_size = 4;
  Trainer both = random_trainer(rig, c, mesh);
  const StepResult r = compute_gradients(both, data.source());
  EXPECT_NEAR(r.aux_loss, (18 * aux[0] + 7 * aux[1]) / 25, 1e-6);
  EXPECT_NEAR(r.z_loss, (18 * z[0] + 7 * z[1]) / 25, 1e-5);
}

TEST(Numerics, TiesGoToTheLowerExpert) {
  Config c = small_moe_config();
  Trainer t = random_trainer(rig, c, mesh);
  zero_routers(t);
  (void)compute_gradients(t, random_sequences(4, 9, c.model.vocab_size, 1).source());
  for (std::int64_t l = 0; l < 2; ++l) {
    const std::vector<std::int32_t> chosen = chosen_experts(t, l);
    for (std::size_t i = 0; i < chosen.size(); ++i) EXPECT_EQ(chosen[i], static_cast<std::int32_t>(i % 2));
  }
}

TEST(Numerics, ZeroTokensForAnExpert) {
  for (const char* recompute : {"none", "full", "attention,mlp,norms"}) {
    Config c = small_moe_config();
    c.train.recompute = recompute;
    c.train.weight_decay = 0;
    Trainer t = random_trainer(rig, c, mesh);
    zero_routers(t);  // ties send all tokens to experts 0 and 1
    const TrainedState before = state_of(t);
    const StepResult r = train_step(t, random_sequences(4, 9, c.model.vocab_size, 1).source());
    EXPECT_TRUE(std::isfinite(r.loss) && std::isfinite(r.grad_norm));
    const TrainedState after = state_of(t);
    for (const ParamRow& row : t.table().rows) {
      if (row.expert < 0) continue;
      const bool idle = row.expert >= 2;
      EXPECT_EQ(norm(gradient_of(t, row)) == 0, idle) << row.name;
      EXPECT_EQ(before.parameters.at(row.name).weight == after.parameters.at(row.name).weight, idle) << row.name;
    }
  }
}

// The router's weights change between forward and backward, as rounding in a recomputed norm could change its logits:
// the saved choice is used, although the new weights would choose otherwise.
TEST(Numerics, RecomputeReusesRouting) {
  Config c = small_moe_config();
  c.train.recompute = "full";
  c.train.global_batch_size = 2;
  Trainer t = random_trainer(rig, c, mesh);
  const FixedSequences data = random_sequences(4, 9, c.model.vocab_size, 1);
  const StepResult first = compute_gradients(t, data.source());  // fills the batch
  forward(*t.model, t.batch, 1);
  const std::vector<std::int32_t> chosen[] = {chosen_experts(t, 0), chosen_experts(t, 1)};
  const auto aux_of = [&] { return values_of<double>(t, t.model->activations.metrics_of(0))[0]; };
  const double aux = aux_of();
  for (const LayerWeights& layer : t.model->weights.layers) {
    std::vector<float> w = floats_of(t, layer.router);
    for (float& x : w) x *= -1;
    set_floats(t, layer.router, w);
  }
  backward(*t.model, t.batch, {18, 18});
  EXPECT_EQ(chosen_experts(t, 0), chosen[0]);
  EXPECT_EQ(chosen_experts(t, 1), chosen[1]);
  EXPECT_EQ(aux_of(), aux);  // nor is anything counted twice
  forward(*t.model, t.batch, 1);
  EXPECT_NE(chosen_experts(t, 0), chosen[0]);
  EXPECT_GT(first.aux_loss, 0);
}

TEST(Numerics, RecomputeIsBitwiseTheSame) {
  for (const char* dtype : {"fp32", "bf16"}) {
    for (const bool moe : {false, true}) {
      Config c = moe ? small_moe_config() : small_config();
      c.dtype = dtype;
      c.model.shared_expert = moe;
      c.model.moe_every_n_layers = 2;
      c.model.num_hidden_layers = 3;
      const FixedSequences data = random_sequences(8, 9, c.model.vocab_size, 1);
      Trainer none = random_trainer(rig, c, mesh);
      std::vector<StepResult> want;
      for (int i = 0; i < 3; ++i) want.push_back(train_step(none, data.source()));
      for (const char* recompute :
           {"full", "selective", "attention", "swiglu", "mlp", "norms", "attention,mlp,norms"}) {
        SCOPED_TRACE(recompute);
        c.train.recompute = recompute;
        Trainer again = random_trainer(rig, c, mesh);
        EXPECT_LT(again.activations.capacity(), none.activations.capacity());
        for (const StepResult& a : want) {
          const StepResult b = train_step(again, data.source());
          EXPECT_EQ(a.loss, b.loss);
          EXPECT_EQ(a.grad_norm, b.grad_norm);
          EXPECT_EQ(a.aux_loss, b.aux_loss);
        }
        EXPECT_TRUE(gradients_of(none) == gradients_of(again));
        expect_same_state(state_of(none), state_of(again));
      }
    }
  }
}

TEST(Numerics, SameLayoutIsBitwiseTheSameRun) {
  for (const char* dtype : {"fp32", "bf16"}) {
    Config c = small_moe_config();
    c.dtype = dtype;
    const FixedSequences data = random_sequences(8, 9, c.model.vocab_size, 1);
    Trainer a = random_trainer(rig, c, mesh), b = random_trainer(rig, c, mesh);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(train_step(a, data.source()).loss, train_step(b, data.source()).loss);
    expect_same_state(state_of(a), state_of(b));
  }
}

TEST(Numerics, TheLossFalls) {
  for (const char* dtype : {"fp32", "bf16"}) {
    for (const bool moe : {false, true}) {
      Config c = moe ? small_moe_config() : small_config();
      c.dtype = dtype;
      c.train.steps = 60;
      c.train.lr = 1e-2;
      const FixedSequences data = random_sequences(4, 9, c.model.vocab_size, 1);
      Trainer t = random_trainer(rig, c, mesh);
      const double first = train_step(t, data.source()).loss;
      double last = first;
      while (t.step < c.train.steps) last = train_step(t, data.source()).loss;
      EXPECT_LT(last, 0.5 * first) << dtype << " " << moe;  // 36 tokens are memorized
    }
  }
}

}  // namespace
}  // namespace upcycle
