#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "core/log.h"
#include "parallel/train/faults.h"
#include "parallel/train/not_finite.h"
#include "tests/mpi_tests.h"
#include "tests/train_mpi/raw_state.h"

// A gradient with NaN or an infinity on one rank: every rank skips the step, and the run goes on as one does whose data
// never had those sequences.
namespace upcycle::test {
namespace {

struct Case {
  const char* name;
  bool moe = true;
  const char* dtype = "fp32";
  std::int64_t zero_stage = 1;
  const char* gradient_dtype = "fp32";
  const char *masters = "fp32", *moments = "fp32", *optimizer = "adamw", *recompute = "none";
  bool tied = false;
};

class SkippedSteps : public ::testing::TestWithParam<Case> {
 protected:
  static int ranks() { return mpi_session().size(); }
  Rig rig;
  // Of four ranks both kinds of parallelism: tp 2, dp 2, ep 2 and so two replicas of each expert.
  Mesh mesh = make_test_mesh(*rig.device, *rig.stream, ranks() == 4 ? 2 : 1, ranks() == 4 ? 2 : 1);
  Config config = [] {
    const Case& from = GetParam();
    Config c = from.moe ? small_moe_config() : small_config();
    c.dtype = from.dtype;
    c.train.optimizer = from.optimizer;
    c.train.zero_stage = ranks() > 1 ? from.zero_stage : 1;
    c.train.gradient_dtype = from.gradient_dtype;
    c.train.master_dtype = from.masters;
    c.train.moment_dtype = from.moments;
    c.train.recompute = from.recompute;
    c.train.seq_length = 8;
    c.train.micro_batch_size = 1;
    c.train.global_batch_size = ranks() == 4 ? 4 : 2 * ranks();  // two microbatches on each rank
    c.train.steps = 1000;
    c.train.warmup_steps = 5;
    c.train.max_skipped_steps = 3;
    c.model.attention_bias = "all";
    c.model.qk_norm = "head";
    c.model.shared_expert = from.moe;
    c.model.tie_word_embeddings = from.tied;
    return c;
  }();
  FixedSequences data = random_sequences(61, 8, config.model.vocab_size, 5);

  // One tensor of each kind, each with a rank that holds some of it: over all of them, every rank.
  std::vector<std::pair<std::string, int>> targets(const Trainer& t) const {
    std::vector<std::pair<std::string, int>> all;
    std::set<std::pair<ParamRole, std::int64_t>> seen;  // an expert each
    int next = 0;
    std::size_t number = std::string(GetParam().name).size();  // four ranks: a third of them, each form another
    for (const ParamRow& row : make_global_table(config.model).rows) {
      if (!seen.insert({row.role, row.expert}).second || (ranks() == 4 && ++number % 3 != 0)) continue;
      for (int tried = 0; tried < ranks(); ++tried) {
        const int rank = next++ % ranks();
        if (mesh.world->max_of(mesh.rank == rank && t.table().find(row.name) != nullptr ? 1 : 0) == 0) continue;
        all.emplace_back(row.name, rank);
        break;
      }
    }
    return all;
  }

  // The run without the sequences of the steps that `bad` are.
  SequenceSource without(const std::vector<std::int64_t>& bad) const {
    const std::int64_t batch = config.train.global_batch_size;
    return [this, bad, batch](std::int64_t index, std::span<std::int32_t> to, std::span<std::int32_t> targets) {
      std::int64_t step = index / batch;
      for (const std::int64_t b : bad) step += b <= step ? 1 : 0;
      data.source()(step * batch + index % batch, to, targets);
    };
  }
};

TEST_P(SkippedSteps, OfEachTensorOnEachRankLeaveNoTrace) {
  const std::int64_t batch = config.train.global_batch_size;
  Trainer clean = random_trainer(rig, config, mesh);
  const auto wanted = targets(clean);
  std::vector<std::int64_t> bad;  // numbers of batches, in order: every other one
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    bad.push_back(2 * static_cast<std::int64_t>(i) + 1);
    const std::int64_t first = bad.back() * batch;
    config.debug.inject += fmt::format("gradient {} {} {} {} {};", wanted[i].first, wanted[i].second, first, first,
                                       i % 2 == 0 ? "nan" : "inf");
  }
  Trainer t = random_trainer(rig, config, mesh);
  std::size_t skipped = 0;
  for (std::int64_t i = 0; i < 2 * static_cast<std::int64_t>(wanted.size()) + 2; ++i) {
    const StepResult r = train_step(t, data.source());
    EXPECT_EQ(t.consumed_samples, (i + 1) * batch);
    const bool is_bad = std::ranges::binary_search(bad, i);
    ASSERT_EQ(r.skipped, is_bad ? Skipped::NotFinite : Skipped::No) << "batch " << i;
    EXPECT_EQ(t.skips.in_a_row, is_bad ? 1 : 0);
    if (is_bad) {
      const auto& [name, rank] = wanted[skipped++];
      const std::string culprit = find_not_finite(t);
      EXPECT_NE(
          culprit.find(fmt::format("the gradient of {} is the first that is not finite, on rank {} on ", name, rank)),
          std::string::npos)
          << culprit << " of " << name << " on rank " << rank;
      EXPECT_NE(
          culprit.find(fmt::format(
              " in microbatch {}",
              mesh.layout.dp == 1 ? 0 : rank / mesh.layout.tp * (config.train.global_batch_size / mesh.layout.dp))),
          std::string::npos)
          << culprit;
      continue;
    }
    EXPECT_EQ(r.loss, train_step(clean, without(bad)).loss) << "batch " << i;
  }
  EXPECT_EQ(skipped, wanted.size());
  EXPECT_EQ(t.skips.total, static_cast<std::int64_t>(wanted.size()));
  expect_same_bits(raw_state(t), raw_state(clean));
  check_replicas(t.optimizer, t.memory);
}

// Where a forward is spoilt, everything after it is: buffers that a step reuses keep nothing of it.
TEST_P(SkippedSteps, OfActivationsToo) {
  const std::int64_t batch = config.train.global_batch_size;
  std::vector<std::int64_t> bad{1, 2, 4};
  const std::vector<std::string> names = {"layers.1.x", "layers.0.mlp", "final_norm"};
  for (std::size_t i = 0; i < bad.size(); ++i)
    config.debug.inject +=
        fmt::format("activation {} {} {} {} nan;", names[i], ranks() - 1, bad[i] * batch, bad[i] * batch);
  Trainer t = random_trainer(rig, config, mesh);
  Config without_faults = config;
  without_faults.debug.inject.clear();
  Trainer clean = random_trainer(rig, without_faults, mesh);
  for (std::int64_t i = 0; i < 7; ++i) {
    const StepResult r = train_step(t, data.source());
    const auto at = std::ranges::find(bad, i);
    if (at == bad.end())
      EXPECT_EQ(r.loss, train_step(clean, without(bad)).loss) << "batch " << i;
    else
      ASSERT_EQ(r.skipped, Skipped::NotFinite) << names[static_cast<std::size_t>(at - bad.begin())];
  }
  expect_same_bits(raw_state(t), raw_state(clean));
}

INSTANTIATE_TEST_SUITE_P(
    Forms, SkippedSteps,
    ::testing::Values(Case{"Fp32"}, Case{"Dense", false},
                      Case{"Tied", true, "fp32", 1, "fp32", "fp32", "fp32", "adamw", "none", true},
                      Case{"Zero2", true, "fp32", 2}, Case{"Bf16Gradients", true, "bf16", 1, "bf16"},
                      Case{"Bf16GradientsZero2", true, "bf16", 2, "bf16", "bf16_remainder", "bf16"},
                      Case{"Bf16Remainders", true, "bf16", 1, "fp32", "bf16_remainder", "bf16"},
                      Case{"Lion", true, "fp32", 1, "fp32", "fp32", "fp32", "lion"},
                      Case{"Recomputed", true, "fp32", 2, "fp32", "fp32", "fp32", "adamw", "full"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace upcycle::test
