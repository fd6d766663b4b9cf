#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "core/rng.h"
#include "parallel/model/weights.h"
#include "tests/train/rig.h"

// The whole loss (LM, load balancing, z) against finite differences along a direction in each parameter. Directions are
// the gradient's own and a random one of equal length: the first gives a signal above fp32's noise, the second finds
// missing terms.
namespace upcycle {
namespace {

struct Case {
  const char* name;
  bool moe = false;
  bool tied = false;
  const char* order = "topk_then_softmax";
  bool shared_expert = false;
  int every = 1;
  int k = 2;
  bool gated = false;  // the shared expert has a gate, and another width
  bool sigmoid = false, biases = false;
};

class FiniteDifferences : public ::testing::TestWithParam<Case> {
 protected:
  FiniteDifferences() {
    const Case& c = GetParam();
    config = c.moe ? small_moe_config() : small_config();
    config.model.tie_word_embeddings = c.tied;
    config.model.router_softmax = c.order;
    if (c.sigmoid) config.model.router_score = "sigmoid";
    config.model.router_bias = c.biases;
    config.model.shared_expert = c.shared_expert;
    config.model.moe_every_n_layers = c.every;
    config.model.shared_expert_gate = c.gated;
    if (c.gated) config.model.shared_expert_size = config.model.intermediate_size / 2 + 1;
    config.model.num_experts_per_tok = c.k;
    config.model.router_aux_loss_coef = 0.5;              // strong: the LM must not hide an error in them
    if (c.biases) config.model.router_aux_loss_coef = 0;  // it counts another choice, which may change
    config.model.router_z_loss_coef = 0.1;
    config.train.seq_length = 5;
    config.train.global_batch_size = 2;  // one microbatch: all of its routing is still stored
    sequences = decided_sequences();
  }

  // Sequences on which no choice of experts is close, so that weights can move: the best of a few.
  FixedSequences decided_sequences() {
    FixedSequences best;
    double best_gap = -1;
    Trainer t = random_trainer(rig, config, mesh);
    for (std::uint64_t seed = 1; seed <= (config.model.is_moe() ? 40 : 1); ++seed) {
      FixedSequences f = random_sequences(2, 5, config.model.vocab_size, seed);
      f.targets[3] = f.targets[6] = -1;
      (void)compute_gradients(t, f.source());
      double gap = std::numeric_limits<double>::infinity();
      for (std::int64_t l = 0; l < config.model.num_hidden_layers; ++l)
        if (config.model.is_moe_layer(l)) gap = std::min(gap, smallest_gap(t, l));
      if (gap > best_gap) best = f, best_gap = gap;
    }
    return best;
  }

  struct Point {
    double loss;
    std::vector<std::vector<std::int32_t>> experts;  // per MoE layer: each token's, sorted
  };
  Point evaluate(Trainer& t) {
    Point p{whole_loss(config, compute_gradients(t, sequences.source())), {}};
    for (std::int64_t l = 0; l < config.model.num_hidden_layers; ++l) {
      if (!config.model.is_moe_layer(l)) continue;
      std::vector<std::int32_t>& chosen = p.experts.emplace_back(chosen_experts(t, l));
      const std::int64_t k = config.model.num_experts_per_tok;
      for (auto token = chosen.begin(); token != chosen.end(); token += k) std::sort(token, token + k);
    }
    return p;
  }

  Rig rig;
  Mesh mesh = single_mesh(rig);
  Config config;
  FixedSequences sequences;
};

TEST_P(FiniteDifferences, EveryParameter) {
  Trainer t = random_trainer(rig, config, mesh);
  const Point start = evaluate(t);
  std::vector<std::vector<float>> gradients;
  for (const ParamRow& row : t.table().rows) gradients.push_back(gradient_of(t, row));
  double largest = 0;
  for (const auto& g : gradients) largest = std::max(largest, norm(g));

  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const ParamRow& row = t.table().rows[i];
    const std::vector<float>& g = gradients[i];
    const Tensor weights = view_row(row, t.memory.weights.dense, t.memory.weights.expert);
    const std::vector<float> original = floats_of(t, weights);
    std::vector<float> w(original.size());
    std::vector<double> direction(g.size());
    double length = 0, slope = 0;
    for (std::size_t j = 0; j < g.size(); ++j) {
      direction[j] = (norm(g) > 0 ? g[j] / norm(g) : 0) +
                     rng::normal(3, rng::key_of(row.name), j) / std::sqrt(static_cast<double>(g.size()));
      length += direction[j] * direction[j];
    }
    for (std::size_t j = 0; j < g.size(); ++j) {
      direction[j] /= std::sqrt(length);
      slope += direction[j] * g[j];
    }
    const auto at = [&](double h) {
      for (std::size_t j = 0; j < g.size(); ++j) w[j] = static_cast<float>(original[j] + h * direction[j]);
      set_floats(t, weights, w);
      return evaluate(t);
    };
    // Fourth order in h: (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h, over falling h while no choice of experts
    // changes; as Ridders does, the estimate that differs least from the one before is taken. The slope under test is
    // not used.
    double measured = 0, previous = 0, change = std::numeric_limits<double>::infinity();
    bool have_previous = false;
    const auto difference_at = [&](double h) {
      const Point up = at(h), down = at(-h);
      return up.experts == start.experts && down.experts == start.experts ? std::optional(up.loss - down.loss)
                                                                          : std::nullopt;
    };
    std::optional<double> wide = difference_at(0.08);
    for (double h = 0.04; h > 0.002; h /= 2) {
      const std::optional<double> narrow = difference_at(h);
      if (wide && narrow) {
        const double estimate = (8 * *narrow - *wide) / (12 * h);
        if (have_previous && std::abs(estimate - previous) < change) {
          measured = estimate;
          change = std::abs(estimate - previous);
        }
        previous = estimate;
        have_previous = true;
      }
      wide = narrow;
    }
    set_floats(t, weights, original);
    EXPECT_TRUE(std::isfinite(change)) << row.name << ": the routing changes at any step";
    // fp32 forward passes: about 1e-7 of the loss over h.
    EXPECT_NEAR(measured, slope, 2e-3 * std::abs(slope) + 1e-4 * largest) << row.name << ", gradient norm " << norm(g);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, FiniteDifferences,
    ::testing::Values(Case{"Dense"}, Case{"DenseTied", false, true}, Case{"Moe", true}, Case{"MoeTied", true, true},
                      Case{"MoeSwitch", true, false, "softmax_then_topk"},
                      Case{"MoeSwitchTopOne", true, false, "softmax_then_topk", false, 1, 1},
                      Case{"MoeSharedExpert", true, false, "topk_then_softmax", true},
                      Case{"MoeGatedSharedExpert", true, false, "topk_then_softmax", true, 1, 2, true},
                      Case{"MoeEverySecondLayer", true, false, "softmax_then_topk", true, 2, 3},
                      Case{"MoeSigmoid", true, false, "topk_then_softmax", false, 1, 2, false, true},
                      Case{"MoeSigmoidBiases", true, false, "topk_then_softmax", false, 1, 2, false, true, true},
                      Case{"MoeSigmoidPlainWeights", true, false, "softmax_then_topk", true, 1, 1, false, true},
                      Case{"MoeAllExperts", true, true, "topk_then_softmax", false, 2, 4}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace upcycle
