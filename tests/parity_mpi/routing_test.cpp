#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "parallel/model/transformer.h"
#include "tests/parity_mpi/models.h"

// Adversarial routing, on every layout: the same loss and gradients as one rank, and no rank waits for ever.
namespace upcycle::test {
namespace {

// A parameter's weights, changed on the host: row-major (rows, row.columns).
void change(Trainer& t, const ParamRow& row, const std::function<void(std::vector<float>&)>& how) {
  const Tensor on_device = view_row(row, t.memory.weights.dense, t.memory.weights.expert);
  std::vector<float> w = floats_of(t, on_device);
  how(w);
  set_floats(t, on_device, w);
}

// Every token ranks the experts as `order` does: column 0 of the residual is large for all, and the router reads only
// it.
Fill all_tokens_to(const std::vector<std::int64_t>& order) {
  return [order](Trainer& t) {
    random_fill()(t);
    for (const ParamRow& row : t.table().rows) {
      const auto columns = static_cast<std::size_t>(row.columns);
      if (row.name == "model.embed_tokens.weight")
        change(t, row, [&](std::vector<float>& w) {
          for (std::size_t at = 0; at < w.size(); at += columns) w[at] = 4;
        });
      if (!row.name.ends_with("block_sparse_moe.gate.weight")) continue;
      change(t, row, [&](std::vector<float>& w) {
        std::fill(w.begin(), w.end(), 0.0f);
        for (std::size_t e = 0; e < w.size() / columns; ++e) {
          const auto place = std::find(order.begin(), order.end(), static_cast<std::int64_t>(e)) - order.begin();
          const bool wanted = place < static_cast<std::ptrdiff_t>(order.size());
          w[e * columns] = wanted ? 0.8f - 0.2f * static_cast<float>(place) : -0.1f * static_cast<float>(e + 1);
        }
      });
    }
    masters_from_weights(t.optimizer, t.memory);
  };
}

std::set<std::int32_t> experts_in_use(const Trainer& t) {
  std::set<std::int32_t> used;
  for (std::int64_t l = 0; l < t.config.model.num_hidden_layers; ++l)
    for (const std::int32_t e : chosen_experts(t, l)) used.insert(e);
  return used;
}

Config config_of(const Switches& s, int microbatches) {
  Config c = config_of(s);
  c.train.global_batch_size = c.train.micro_batch_size * microbatches * mpi_session().size();
  return c;
}

// All rows go to one expert, on the first or the last rank: the others have none, and if the buffers hold only the even
// share, the layer works in rounds.
class AllTokensToOneExpert : public ::testing::TestWithParam<std::tuple<bool, bool, int>> {};

TEST_P(AllTokensToOneExpert, InRounds) {
  const auto [last, recompute, chunks] = GetParam();
  Switches s;
  s.one_expert = s.tight = true;
  s.recompute = recompute;
  s.chunks = chunks;
  const Config c = config_of(s, 1);
  const std::int64_t target = last ? c.model.num_local_experts - 1 : 0;
  const FixedSequences data = random_sequences(c.train.global_batch_size, c.train.seq_length, c.model.vocab_size, 3);
  compare_all_layouts(c, all_tokens_to({target}), data, [&](Trainer& t) {
    EXPECT_EQ(experts_in_use(t), std::set<std::int32_t>{static_cast<std::int32_t>(target)});
    for (const LayerState& layer : t.model->activations.layers)
      EXPECT_EQ(layer.moe.dispatch.rounds > 1, t.mesh->layout.ep > 1);
  });
}

using OneExpertCase = std::tuple<bool, bool, int>;
INSTANTIATE_TEST_SUITE_P(Pairwise, AllTokensToOneExpert,
                         ::testing::Values(OneExpertCase{false, false, 1}, OneExpertCase{false, true, 3},
                                           OneExpertCase{true, false, 3}, OneExpertCase{true, true, 1}));

// The same with buffers for all: no rounds, and the other ranks' products have no rows at all.
TEST(AllTokensToOneOfMany, WithoutRounds) {
  Switches s;
  s.one_expert = true;
  s.chunks = 3;
  Config c = config_of(s, 2);
  c.parallel.imbalance_factor = mpi_session().size();
  const FixedSequences data = random_sequences(c.train.global_batch_size, c.train.seq_length, c.model.vocab_size, 3);
  compare_all_layouts(c, all_tokens_to({c.model.num_local_experts - 1}), data, [](Trainer& t) {
    for (const LayerState& layer : t.model->activations.layers) EXPECT_EQ(layer.moe.dispatch.rounds, 1);
  });
}

// Two experts of one rank, or of two, have every token; beside a shared expert and between dense layers too.
TEST(AllTokensToTwoExperts, OthersHaveNone) {
  for (const bool shared : {false, true}) {
    Switches s;
    s.start = shared ? Start::SharedExpert : Start::Copy;
    s.tight = true;
    s.chunks = shared ? 3 : 1;
    const Config c = config_of(s, 2);
    const auto E = static_cast<std::int32_t>(c.model.num_local_experts);
    const FixedSequences data = random_sequences(c.train.global_batch_size, c.train.seq_length, c.model.vocab_size, 3);
    for (const std::int32_t second : {0, E - 2}) {
      SCOPED_TRACE(fmt::format("experts {} and {}", E - 1, second));
      compare_all_layouts(c, all_tokens_to({E - 1, second}), data, [&](Trainer& t) {
        EXPECT_EQ(experts_in_use(t), (std::set<std::int32_t>{second, E - 1}));
      });
    }
  }
}

// Router rows come in equal pairs, half the experts apart, so on different ranks: with k = 3 the last choice of every
// token is between two equal logits, with k = 1 the only one.
TEST(Ties, GoToTheLowerExpertOnEveryLayout) {
  for (const std::int64_t k : {1, 3}) {
    SCOPED_TRACE(k);
    Switches s;
    s.one_expert = true;
    s.tight = k == 3;
    Config c = config_of(s, 2);
    const std::int64_t E = c.model.num_local_experts / 2 * 2, half = E / 2;
    if (k == 3 && E < 6) continue;  // three ranks have too few pairs
    c.model.num_experts_per_tok = k;
    const Fill paired = [&](Trainer& t) {
      random_fill()(t);
      for (const ParamRow& row : t.table().rows) {
        if (!row.name.ends_with("block_sparse_moe.gate.weight")) continue;
        change(t, row, [&](std::vector<float>& w) {
          std::copy(w.begin(), w.begin() + half * row.columns, w.begin() + half * row.columns);
        });
      }
      masters_from_weights(t.optimizer, t.memory);
    };
    const FixedSequences data = random_sequences(c.train.global_batch_size, c.train.seq_length, c.model.vocab_size, 5);
    const Reference want = one_rank_reference(c, paired, data);
    if (c.model.num_local_experts % 2 == 0) {
      EXPECT_EQ(want.gap, 0);
    }
    for (std::size_t token = 0; token < want.routing.size(); token += static_cast<std::size_t>(k)) {
      const auto begin = want.routing.begin() + static_cast<std::ptrdiff_t>(token), end = begin + k;
      for (auto e = begin; e != end; ++e)
        if (*e >= half && *e < E) {
          EXPECT_NE(std::find(begin, e, *e - half), e) << "expert " << *e << " before its equal";
        }
    }
    for (const Parallelism& p : legal_layouts(c.model)) compare_layout(c, p, paired, data, want);
  }
}

// Whole microbatches, whole ranks, all but one target, or the whole step have no valid target: their tokens are still
// dispatched.
class Uncounted : public ::testing::TestWithParam<std::tuple<bool, int>> {};

TEST_P(Uncounted, TokensOnEveryLayout) {
  const auto [moe, mask] = GetParam();
  Switches s;
  s.start = moe ? Start::Copy : Start::Dense;
  s.chunks = 3;
  const Config c = config_of(s, 2);
  FixedSequences data = clear_sequences(c, random_fill(), c.train.global_batch_size);
  const auto n = static_cast<std::ptrdiff_t>(data.targets.size()), T = 2 * static_cast<std::ptrdiff_t>(data.S);
  const std::pair<std::ptrdiff_t, std::ptrdiff_t> masks[] = {{0, T}, {n - T, n}, {n / 2, n}, {1, n}, {0, n}};
  std::fill(data.targets.begin() + masks[mask].first, data.targets.begin() + masks[mask].second, -1);
  compare_all_layouts(c, random_fill(), data);
}

INSTANTIATE_TEST_SUITE_P(Dense, Uncounted, ::testing::Values(std::tuple{false, 4}));
INSTANTIATE_TEST_SUITE_P(Moe, Uncounted, ::testing::Combine(::testing::Values(true), ::testing::Values(2, 4)));
INSTANTIATE_TEST_SUITE_P(FullMasks, Uncounted, ::testing::Combine(::testing::Bool(), ::testing::Range(0, 5)));

}  // namespace
}  // namespace upcycle::test
