#include <fmt/core.h>
#include <gtest/gtest.h>

#include <map>

#include "parallel/model/transformer.h"
#include "parallel/train/step.h"
#include "tests/parity_mpi/models.h"

// What keeps experts balanced, beyond a microbatch's loss, on every layout of this world.
namespace upcycle::test {
namespace {

FixedSequences in_order(const FixedSequences& data, const std::vector<std::int64_t>& order) {
  FixedSequences result{data.S, {}, {}};
  for (const std::int64_t i : order) {
    const auto at = [&](const std::vector<std::int32_t>& v) { return v.begin() + i * data.S; };
    result.tokens.insert(result.tokens.end(), at(data.tokens), at(data.tokens) + data.S);
    result.targets.insert(result.targets.end(), at(data.targets), at(data.targets) + data.S);
  }
  return result;
}

// The loss over the global batch counts the microbatches that the ranks are at together, and those before: ranks are to
// it as if each such round were one microbatch of one rank, whose sequences are the ranks' in turn.
TEST(Balance, LossOverTheGlobalBatchTakesRoundsOfAllRanks) {
  constexpr std::int64_t rounds = 2;
  Config c = config_of(Switches{});
  c.model.router_aux_loss_coef = 0.5;
  const std::int64_t B = c.train.micro_batch_size;
  bool recompute = true;
  std::map<std::int64_t, std::pair<FixedSequences, Reference>> of_dp;
  for (const Parallelism& p : legal_layouts(c.model)) {
    SCOPED_TRACE(p.text());
    const std::int64_t dp = mpi_session().size() / p.tp;
    c.train.global_batch_size = rounds * B * dp;
    if (of_dp.count(dp) == 0) {
      const FixedSequences data = clear_sequences(c, random_fill(), c.train.global_batch_size);
      std::vector<std::int64_t> order;
      for (std::int64_t round = 0; round < rounds; ++round)
        for (std::int64_t rank = 0; rank < dp; ++rank)
          for (std::int64_t i = 0; i < B; ++i) order.push_back((rank * rounds + round) * B + i);
      Config alone = c;
      alone.train.micro_batch_size = B * dp;
      const Reference plain = one_rank_reference(alone, random_fill(), in_order(data, order));
      alone.model.router_aux_loss_scope = "global_batch";
      Reference want = one_rank_reference(alone, random_fill(), in_order(data, order));
      EXPECT_GT(std::abs(want.result.aux_loss - plain.result.aux_loss), 1e-4);
      of_dp.emplace(dp, std::pair{data, std::move(want)});
    }
    const FixedSequences& data = of_dp.at(dp).first;
    Reference want = of_dp.at(dp).second;
    Config here = c;
    here.model.router_aux_loss_scope = "global_batch";
    here.train.recompute = (recompute = !recompute) ? "full" : "none";  // in turn
    const Rig rig;
    const Mesh mesh = make_test_mesh(rig, p);
    Trainer t = make_trainer(here, mesh, *rig.device, *rig.stream, *rig.ops);
    random_fill()(t);
    const StepResult got = compute_gradients(t, data.source());
    // The busiest expert's load is a microbatch's.
    for (std::size_t l = 0; l < got.layers.size(); ++l)
      want.result.layers[l].load_max_over_mean = got.layers[l].load_max_over_mean;
    expect_parity(t, got, want);
  }
}

}  // namespace
}  // namespace upcycle::test
