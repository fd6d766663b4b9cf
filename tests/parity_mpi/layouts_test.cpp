#include <gtest/gtest.h>

#include <map>

#include "tests/parity_mpi/models.h"
#include "tests/parity_mpi/pairwise.h"

// Parallelism is invisible to the loss and to every gradient: each legal layout of this world, with pairwise
// combinations of the switches (the tests named Full: every combination for dense models, every 13th of 1,152 for MoE).
namespace upcycle::test {
namespace {

constexpr int kMicrobatches[] = {1, 2, 4};

std::vector<int> dense_levels() { return {3, 2, 2, 2}; }
Switches dense_switches(const Row& r) {
  Switches s;
  s.start = Start::Dense;
  s.microbatches = kMicrobatches[r[0]];
  s.recompute = r[1] == 1;
  s.tied = r[2] == 1;
  s.masked = r[3] == 1;
  return s;
}

std::vector<int> moe_levels() { return {3, 3, 2, 2, 2, 2, 2, 2, 2}; }
Switches moe_switches(const Row& r) {
  constexpr Start starts[] = {Start::Copy, Start::VirtualGroup, Start::SharedExpert};
  Switches s;
  s.microbatches = kMicrobatches[r[0]];
  s.start = starts[r[1]];
  s.recompute = r[2] == 1;
  s.one_expert = r[3] == 1;
  s.every = 1 + r[4];
  s.chunks = r[5] == 1 ? 3 : 1;
  s.tied = r[6] == 1;
  s.masked = r[7] == 1;
  s.tight = r[8] == 1;
  return s;
}

// Microbatches per rank are fixed, so each dp has its own batch and reference.
void compare_all(const Switches& s) {
  SCOPED_TRACE(s.text());
  Config config = config_of(s);
  const Fill fill = fill_of(s);
  struct Known {
    FixedSequences sequences;
    Reference reference;
  };
  std::map<int, Known> of_dp;
  for (const Parallelism& p : legal_layouts(config.model)) {
    if (s.zero_stage == 2 && !has_replicas(config.model, p)) continue;
    const int dp = mpi_session().size() / p.tp;
    config.train.global_batch_size = config.train.micro_batch_size * s.microbatches * dp;
    auto known = of_dp.find(dp);
    if (known == of_dp.end()) {
      FixedSequences data = clear_sequences(config, fill, config.train.global_batch_size);
      if (s.masked) mask_targets(config, data);
      Reference reference = one_rank_reference(config, fill, data);
      if (config.model.is_moe()) {
        ASSERT_GT(reference.gap, 1e-4);
      }
      known = of_dp.emplace(dp, Known{std::move(data), std::move(reference)}).first;
    }
    compare_layout(config, p, fill, known->second.sequences, known->second.reference);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

class Layouts : public ::testing::TestWithParam<Switches> {};
TEST_P(Layouts, EveryOneGivesOneRanksGradients) { compare_all(GetParam()); }

std::vector<Switches> switches_of(const std::vector<Row>& rows, Switches (*of)(const Row&)) {
  std::vector<Switches> all;
  for (const Row& row : rows) all.push_back(of(row));
  return all;
}

const auto name_of = [](const auto& info) { return info.param.text(); };
INSTANTIATE_TEST_SUITE_P(Dense, Layouts,
                         ::testing::ValuesIn(switches_of(pairwise_rows(dense_levels()), dense_switches)), name_of);
INSTANTIATE_TEST_SUITE_P(Moe, Layouts, ::testing::ValuesIn(switches_of(pairwise_rows(moe_levels()), moe_switches)),
                         name_of);
// Reductions in each microbatch add in another order.
std::vector<Switches> zero2_switches() {
  Switches tied, shared, rounds;
  tied.start = Start::Dense;
  tied.tied = true;
  tied.microbatches = 4;
  shared.start = Start::SharedExpert;
  shared.microbatches = shared.every = 2;
  shared.recompute = true;
  rounds.microbatches = 2;
  rounds.chunks = 3;
  rounds.tied = rounds.tight = rounds.masked = true;
  std::vector<Switches> all = {tied, shared, rounds};
  for (Switches& s : all) s.zero_stage = 2;
  return all;
}
INSTANTIATE_TEST_SUITE_P(Zero2, Layouts, ::testing::ValuesIn(zero2_switches()), name_of);
// Vectors of every kind, cut and whole, and sums over tp within attention.
std::vector<Switches> form_switches() {
  Switches biases, heads, everything, shared, post, multiplied, multiplied_post, gemma, gemma_moe;
  biases.form = &kBiases;
  biases.recompute = biases.masked = true;
  everything.form = &kEverything;
  everything.microbatches = 2;
  everything.classes = everything.tied = true;
  biases.start = everything.start = Start::Dense;
  heads.form = &kHeadNorms;
  heads.chunks = 3;
  heads.recompute = true;
  shared.form = &kHeadNorms;
  shared.start = Start::SharedExpert;
  shared.every = 2;
  post.form = &kBiasedPostNorms;
  post.recompute = post.tight = true;
  multiplied.form = &kMultiplied;
  multiplied.microbatches = 2;
  multiplied.tied = true;
  multiplied.start = Start::Dense;
  multiplied_post.form = &kMultipliedPostNorms;
  multiplied_post.recompute = multiplied_post.masked = true;
  gemma.form = gemma_moe.form = &kGemma;
  gemma.start = Start::Dense;
  gemma.tied = gemma.masked = gemma.classes = true;
  gemma_moe.chunks = 3;
  gemma_moe.recompute = gemma_moe.tied = true;
  return {biases, everything, heads, shared, post, multiplied, multiplied_post, gemma, gemma_moe};
}
INSTANTIATE_TEST_SUITE_P(Forms, Layouts, ::testing::ValuesIn(form_switches()), name_of);
std::vector<Switches> gated_switches() {
  Switches plain, again, rounds;
  again.recompute = true;
  again.microbatches = 2;
  again.masked = true;
  rounds.classes = true;
  rounds.tight = true;
  rounds.chunks = 3;
  std::vector<Switches> all = {plain, again, rounds};
  for (Switches& s : all) s.start = Start::GatedExpert;
  return all;
}
INSTANTIATE_TEST_SUITE_P(Gated, Layouts, ::testing::ValuesIn(gated_switches()), name_of);
INSTANTIATE_TEST_SUITE_P(FullDense, Layouts, ::testing::ValuesIn(switches_of(all_rows(dense_levels()), dense_switches)),
                         name_of);
std::vector<Row> every(std::size_t step, const std::vector<Row>& rows) {
  std::vector<Row> some;
  for (std::size_t i = 0; i < rows.size(); i += step) some.push_back(rows[i]);
  return some;
}
// 13 shares no factor with the numbers of levels, so each level of each switch occurs.
INSTANTIATE_TEST_SUITE_P(FullMoe, Layouts,
                         ::testing::ValuesIn(switches_of(every(13, all_rows(moe_levels())), moe_switches)), name_of);

TEST(LegalLayouts, AreAllOfThem) {
  Switches moe;
  const std::map<int, std::size_t> counts{{1, 1}, {2, 5}, {3, 5}, {4, 12}, {5, 5}, {6, 21}, {7, 5}, {8, 22}};
  const int world = mpi_session().size();
  EXPECT_EQ(legal_layouts(config_of(moe).model).size(), counts.at(world));
  moe.start = Start::Dense;
  std::size_t divisors = 0;
  for (int tp = 1; tp <= world; ++tp) divisors += world % tp == 0;
  EXPECT_EQ(legal_layouts(config_of(moe).model).size(), divisors);
}

TEST(PairwiseRows, EveryTwoLevelsOccurTogether) {
  const std::vector<int> levels = moe_levels();
  const std::vector<Row> rows = pairwise_rows(levels);
  EXPECT_LT(rows.size(), 16u);
  for (std::size_t f = 0; f < levels.size(); ++f)
    for (std::size_t g = f + 1; g < levels.size(); ++g)
      for (int a = 0; a < levels[f]; ++a)
        for (int b = 0; b < levels[g]; ++b)
          EXPECT_TRUE(std::any_of(rows.begin(), rows.end(), [&](const Row& r) { return r[f] == a && r[g] == b; }));
}

}  // namespace
}  // namespace upcycle::test
