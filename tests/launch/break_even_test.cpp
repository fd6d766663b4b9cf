#include "launch/study/break_even.h"

#include <gtest/gtest.h>

#include <cmath>

#include "launch/study/wording.h"

namespace upcycle {
namespace {

// Continued pretraining of 100, 200 and 400 device-seconds; the MoE costs twice as much to serve.
BreakEvenInput example() {
  return {.dense = {{400, 2.0}, {100, 3.0}, {200, 2.5}},
          .moe_training = 100,
          .moe_loss = 2.25,
          .moe_per_token = 2e-6,
          .dense_per_token = 1e-6};
}

TEST(BreakEven, IsTheFormulaByHand) {
  const BreakEven b = break_even(example());
  // Half way from 2.5 to 2.0, in log cost: sqrt(200 * 400).
  EXPECT_NEAR(b.dense_seconds.value(), std::sqrt(200.0 * 400), 1e-9);
  EXPECT_NEAR(b.served_tokens.value(), (std::sqrt(200.0 * 400) - 100) / 1e-6, 1);
  EXPECT_EQ(b.answer, "after 1.8e8 served tokens");
  EXPECT_EQ(b.pays, "so it pays if fewer than 1.8e8 tokens are served");
}

TEST(BreakEven, ALossThatARunReachesCostsThatRun) {
  BreakEvenInput in = example();
  for (const auto& [loss, seconds] : {std::pair{3.0, 100.0}, {2.5, 200.0}, {2.0, 400.0}}) {
    in.moe_loss = loss;
    in.moe_training = 50;
    EXPECT_NEAR(break_even(in).dense_seconds.value(), seconds, 1e-9);
  }
}

TEST(BreakEven, WhereLossesAreNotMonotoneTheCheapestWayCounts) {
  BreakEvenInput in = example();
  in.dense = {{100, 3.0}, {200, 2.2}, {400, 2.6}, {800, 2.0}};
  EXPECT_NEAR(break_even(in).dense_seconds.value(), std::exp(std::log(100) + 0.75 / 0.8 * std::log(2)), 1e-9);
}

TEST(BreakEven, BeyondTheLargestBudgetItIsALowerBound) {
  BreakEvenInput in = example();
  in.moe_loss = 1.9;
  const BreakEven b = break_even(in);
  EXPECT_FALSE(b.dense_seconds);
  EXPECT_NEAR(b.served_tokens.value(), 3e8, 1);
  EXPECT_TRUE(b.answer.starts_with("more than 3e8 served tokens: no continued pretraining here reaches")) << b.answer;
  EXPECT_TRUE(b.pays.starts_with("so it pays if fewer than 3e8 tokens are served, and perhaps beyond")) << b.pays;
}

TEST(BreakEven, BeyondTheLargestBudgetWithoutABoundItIsNotKnown) {
  BreakEvenInput in = example();
  in.moe_loss = 1.9;
  in.moe_training = 500;
  const BreakEven b = break_even(in);
  EXPECT_FALSE(b.served_tokens);
  EXPECT_TRUE(b.answer.starts_with("not known: no continued pretraining here reaches")) << b.answer;
}

TEST(BreakEven, WhereContinuedPretrainingFlattensItIsNever) {
  BreakEvenInput in = example();
  in.dense.push_back({800, 2.01});
  in.moe_loss = 1.9;
  const BreakEven b = break_even(in);
  EXPECT_FALSE(b.served_tokens);
  EXPECT_TRUE(b.answer.starts_with("never, as far as these runs show")) << b.answer;
  EXPECT_NE(b.pays.find("always pays"), std::string::npos);
  in.moe_loss = 2.0;  // what was reached before still counts
  EXPECT_NEAR(break_even(in).dense_seconds.value(), 400, 1e-9);
}

TEST(BreakEven, AnMoEThatIsNotBetterNeverPays) {
  BreakEvenInput in = example();
  in.moe_training = 300;
  EXPECT_EQ(break_even(in).pays, "and it never pays: continued pretraining reaches its loss with no more training");
  in.moe_loss = 3.5;  // worse than the smallest budget
  EXPECT_EQ(break_even(in).pays, "and it never pays: continued pretraining reaches its loss with no more training");
  EXPECT_TRUE(break_even(in).answer.starts_with("at once:"));
}

TEST(BreakEven, BelowTheSmallestBudgetItIsAnUpperBound) {
  BreakEvenInput in = example();
  in.moe_loss = 3.5;
  in.moe_training = 50;
  const BreakEven b = break_even(in);
  EXPECT_FALSE(b.dense_seconds);
  EXPECT_NEAR(b.served_tokens.value(), 5e7, 1);
  EXPECT_TRUE(b.answer.starts_with("before 5e7 served tokens")) << b.answer;
  EXPECT_EQ(b.pays, "so it pays at most if fewer than 5e7 tokens are served");
}

TEST(BreakEven, AnMoEThatIsNoDearerToServe) {
  BreakEvenInput in = example();
  for (const double cost : {1e-6, 0.5e-6}) {
    in.moe_per_token = cost;
    in.moe_loss = 2.25;
    EXPECT_TRUE(break_even(in).answer.starts_with("never: the MoE costs no more to serve"));
    EXPECT_NE(break_even(in).pays.find("it always pays"), std::string::npos);
    in.moe_loss = 1.9;
    EXPECT_NE(break_even(in).pays.find("it always pays"), std::string::npos);
    in.moe_loss = 3.5;
    EXPECT_TRUE(break_even(in).answer.starts_with("not known"));
  }
  in.moe_training = 500;  // dearer to train, cheaper to serve
  in.moe_loss = 2.5;
  EXPECT_EQ(break_even(in).pays, "so it pays from 6e8 served tokens on");
  in.moe_loss = 1.9;
  EXPECT_EQ(break_even(in).pays, "so it pays from at most 2e8 served tokens on");
  in.moe_loss = 3.5;
  EXPECT_EQ(break_even(in).pays, "so it pays from at least 8e8 served tokens on");
  in.moe_per_token = in.dense_per_token;
  EXPECT_TRUE(break_even(in).answer.starts_with("at once"));
  in.moe_loss = 1.9;
  EXPECT_TRUE(break_even(in).answer.starts_with("not known"));
}

TEST(BreakEven, WithoutServingOrRunsItIsNotKnown) {
  BreakEvenInput in = example();
  in.moe_per_token = 0;
  EXPECT_EQ(break_even(in).answer, "not known: what serving costs is not known");
  EXPECT_TRUE(equal_total(in).empty());
  in = example();
  in.dense = {{0, 2}, {100, std::nan("")}};  // runs that say nothing
  EXPECT_EQ(break_even(in).answer, "not known: runs of this size and duration are missing");
  EXPECT_TRUE(equal_total(in).empty());
}

TEST(EqualTotal, ComparesLossesAtTrainingAndServing) {
  const std::vector<EqualTotal> ladder = equal_total(example());
  ASSERT_GT(ladder.size(), 5u);
  EXPECT_EQ(ladder[0].served_tokens, 0);
  EXPECT_EQ(ladder[0].total_seconds, 100);
  EXPECT_EQ(ladder[0].dense_loss.value(), 3.0);
  bool beyond = false;
  for (std::size_t i = 1; i < ladder.size(); ++i) {
    const EqualTotal& e = ladder[i];
    EXPECT_GT(e.served_tokens, ladder[i - 1].served_tokens);
    EXPECT_DOUBLE_EQ(e.total_seconds, 100 + e.served_tokens * 2e-6);
    EXPECT_EQ(e.moe_loss, 2.25);
    const double dense = e.total_seconds - e.served_tokens * 1e-6;
    EXPECT_EQ(e.dense_loss.has_value(), dense <= 400) << dense;
    if (std::abs(e.served_tokens - 1e8) < 1) {
      EXPECT_NEAR(e.dense_loss.value(), 2.5, 1e-9);
    }
    beyond = beyond || !e.dense_loss;
  }
  EXPECT_TRUE(beyond);
}

TEST(Wording, RoundsToTwoDigits) {
  for (const auto& [x, text] : {std::pair{3.14e9, "3.1e9"},
                                {9.96e9, "1e10"},
                                {2e8, "2e8"},
                                {0.434, "0.43"},
                                {12.3, "12"},
                                {1.5e-4, "1.5e-4"},
                                {0.0, "0"},
                                {99.9, "1e2"},
                                {0.5, "0.5"},
                                {-0.0123, "-0.012"}})
    EXPECT_EQ(two_digits(x), text);
  EXPECT_EQ(listed({"a"}), "a");
  EXPECT_EQ(listed({"a", "b", "c"}), "a, b and c");
  EXPECT_EQ(counted(1, "run"), "1 run");
  EXPECT_EQ(counted(0, "run"), "0 runs");
}

}  // namespace
}  // namespace upcycle
