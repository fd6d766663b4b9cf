#include "parallel/train/schedule.h"
#include "core/config/check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace upcycle {
namespace {

TrainConfig train_of(const char* schedule, std::int64_t warmup) {
  TrainConfig t;
  t.schedule = schedule;
  t.warmup_steps = warmup;
  t.lr = 1.0;
  t.min_lr = 0.1;
  t.steps = 101;
  return t;
}

TEST(Schedule, WarmsUpLinearlyFromTheFirstStep) {
  for (const char* name : {"constant", "cosine", "wsd"}) {
    const TrainConfig t = train_of(name, 4);
    EXPECT_DOUBLE_EQ(learning_rate(t, 0, 101), 0.25);
    EXPECT_DOUBLE_EQ(learning_rate(t, 2, 101), 0.75);
    EXPECT_DOUBLE_EQ(learning_rate(t, 3, 101), 1.0);
    EXPECT_DOUBLE_EQ(learning_rate(t, 4, 101), 1.0);
  }
}

TEST(Schedule, ConstantStays) {
  for (const std::int64_t step : {0, 50, 100}) EXPECT_DOUBLE_EQ(learning_rate(train_of("constant", 0), step, 101), 1.0);
}

TEST(Schedule, CosineFallsToMinLrOnTheLastStep) {
  const TrainConfig t = train_of("cosine", 0);
  EXPECT_DOUBLE_EQ(learning_rate(t, 0, 101), 1.0);
  EXPECT_NEAR(learning_rate(t, 25, 101), 0.1 + 0.9 * 0.8535533905932737, 1e-12);
  EXPECT_NEAR(learning_rate(t, 50, 101), 0.55, 1e-12);
  EXPECT_NEAR(learning_rate(t, 100, 101), 0.1, 1e-12);
  EXPECT_NEAR(learning_rate(t, 200, 101), 0.1, 1e-12);
  EXPECT_NEAR(learning_rate(train_of("cosine", 20), 60, 101), 0.55, 1e-12);  // halfway from 20 to 100
}

TEST(Schedule, WsdIsStableThenFallsLinearlyToMinLr) {
  TrainConfig t = train_of("wsd", 10);
  t.decay_fraction = 0.5;  // from step 101 - 51 = 50 on, in 51 drops
  EXPECT_DOUBLE_EQ(learning_rate(t, 10, 101), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(t, 49, 101), 1.0);
  EXPECT_NEAR(learning_rate(t, 50, 101), 1 - 0.9 / 51, 1e-12);
  EXPECT_NEAR(learning_rate(t, 75, 101), 1 - 0.9 * 26 / 51, 1e-12);
  EXPECT_NEAR(learning_rate(t, 100, 101), 0.1, 1e-12);
}

TEST(Schedule, AWsdDecayOfOneStepEndsAtMinLr) {
  TrainConfig t = train_of("wsd", 0);
  t.decay_fraction = 0.2;
  EXPECT_DOUBLE_EQ(learning_rate(t, 3, 5), 1.0);
  EXPECT_NEAR(learning_rate(t, 4, 5), 0.1, 1e-12);
}

TEST(Schedule, ALiveUpcyclingWarmsUpAgain) {
  Config c;
  c.train = train_of("constant", 4);
  c.train.steps = 100;
  c.upcycle.at_step = 50;
  EXPECT_DOUBLE_EQ(learning_rate(c, {50, 0}), 1.0);  // still dense
  c.model.num_local_experts = 8;
  EXPECT_DOUBLE_EQ(learning_rate(c, {50, 0}), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate(c, {52, 0}), 0.75);
  EXPECT_DOUBLE_EQ(learning_rate(c, {53, 0}), 1.0);
  // In tokens too: four steps of the batch.
  const std::int64_t batch = c.train.global_batch_size * c.train.seq_length;
  c.train.warmup_steps = 0;
  c.train.warmup_tokens = 4 * batch;
  EXPECT_DOUBLE_EQ(learning_rate(c, {52, 52 * batch}), 0.75);
  EXPECT_DOUBLE_EQ(learning_rate(c, {54, 54 * batch}), 1.0);
}

TEST(Schedule, ShortRunsAreFinite) {
  for (const char* name : {"constant", "cosine", "wsd"}) {
    for (const std::int64_t warmup : {0, 1, 5}) {
      for (const std::int64_t total : {1, 2, 3}) {
        for (std::int64_t step = 0; step < total; ++step) {
          const double lr = learning_rate(train_of(name, warmup), step, total);
          EXPECT_GT(lr, 0);
          EXPECT_LE(lr, 1);
        }
      }
    }
  }
}

// With an unchanged batch, schedules in tokens and in steps give the same rates, bit for bit.
TEST(Schedule, TokensAndStepsOfOneBatchAgree) {
  for (const char* name : {"constant", "cosine", "wsd"}) {
    Config steps, tokens;
    steps.train = tokens.train = train_of(name, 7);
    tokens.train.steps = 0;
    tokens.train.tokens = 101 * tokens.train.global_batch_size * tokens.train.seq_length - 5;
    for (std::int64_t step = 0; step < 101; ++step)
      EXPECT_EQ(learning_rate(steps, {step, 0}),
                learning_rate(tokens, {step, step * tokens.train.global_batch_size * tokens.train.seq_length}))
          << name << " " << step;
  }
}

// Half of the tokens in small batches, the rest in batches four times as large.
TEST(Schedule, ALargerBatchGoesOnWhereTheSmallerOneWas) {
  for (const char* name : {"cosine", "wsd"}) {
    Config small;
    small.train = train_of(name, 5);
    small.train.steps = 0;
    small.train.seq_length = 10;
    small.train.global_batch_size = 1;
    small.train.tokens = 4000;
    small.train.decay_fraction = 0.8;
    Config large = small;
    large.train.global_batch_size = 4;
    const Trained half{200, 2000};
    EXPECT_EQ(total_steps(large.train, half), 250);
    // Place 50 of 100: for cosine 45 of the 94 that follow warm-up, for wsd the 31st of 80 drops.
    const double fallen = std::string(name) == "cosine" ? 0.5 * (1 + std::cos(std::numbers::pi * 45 / 94)) : 49. / 80;
    EXPECT_NEAR(learning_rate(large, half), 0.1 + 0.9 * fallen, 1e-12) << name;
    EXPECT_NEAR(learning_rate(large, {249, 3960}), 0.1, 1e-12) << name;
    EXPECT_DOUBLE_EQ(learning_rate(large, {3, 30}), 0.8) << name;  // warm-up counts steps
  }
}

// Warm-up in tokens is warm-up in steps where it is a whole number of them, and else ends between two.
TEST(Schedule, WarmsUpInTokens) {
  for (const char* name : {"constant", "cosine", "wsd"})
    for (const bool in_steps : {false, true}) {
      Config steps, tokens;
      steps.train = train_of(name, 7);
      steps.train.seq_length = 10;
      if (!in_steps) steps.train.steps = 0, steps.train.tokens = 101 * 80;
      tokens = steps;
      tokens.train.warmup_steps = 0;
      tokens.train.warmup_tokens = 7 * 80;
      for (std::int64_t step = 0; step < 101; ++step)
        EXPECT_EQ(learning_rate(steps, {step, step * 80}), learning_rate(tokens, {step, step * 80})) << name << step;
      tokens.train.warmup_tokens = 200;  // two steps and a half
      EXPECT_DOUBLE_EQ(learning_rate(tokens, {0, 0}), 0.4);
      EXPECT_DOUBLE_EQ(learning_rate(tokens, {1, 80}), 0.8);
      EXPECT_DOUBLE_EQ(learning_rate(tokens, {2, 160}), 1.0);
      EXPECT_GT(learning_rate(tokens, {3, 240}), 0.99);
      EXPECT_NEAR(learning_rate(tokens, {100, 8000}), std::string(name) == "constant" ? 1.0 : 0.1, 1e-12);
    }
}

// Warm-up of 1000 tokens: after 300 in batches of 10, batches of 40 go on at 340, not at their eighth step.
TEST(Schedule, ALargerBatchGoesOnWithTheWarmUpInTokens) {
  for (const bool in_steps : {false, true}) {
    Config c;
    c.train = train_of("cosine", 0);
    c.train.steps = in_steps ? 200 : 0;
    c.train.tokens = in_steps ? 0 : 8000;
    c.train.warmup_tokens = 1000;
    c.train.seq_length = 10;
    c.train.global_batch_size = 1;
    EXPECT_DOUBLE_EQ(learning_rate(c, {29, 290}), 0.3);
    c.train.global_batch_size = 4;
    EXPECT_DOUBLE_EQ(learning_rate(c, {30, 300}), 0.34);
    EXPECT_DOUBLE_EQ(learning_rate(c, {47, 980}), 1.0);
  }
}

// Batches of 1 (for 5 sequences), then 2, 3 and 4 of 10 tokens: schedules in tokens go as fast as the text is read, so
// a ramp's rates are those that one whole batch had at the same place.
TEST(Schedule, ARampFollowsTheTokens) {
  for (const char* name : {"cosine", "wsd"}) {
    Config whole;
    whole.train = train_of(name, 0);
    whole.train.seq_length = 10;
    whole.train.global_batch_size = 4;
    whole.train.steps = 0;
    whole.train.tokens = 4000;
    whole.train.warmup_tokens = 400;
    Config ramp = whole;
    ramp.train.rampup_batch_size = {1, 1, 15};
    // Sequences 0 to 4, then 5, 7, 9, then 11 and 14, then 17: all whole.
    EXPECT_EQ(total_steps(ramp.train), 5 + 3 + 2 + (400 - 17 + 3) / 4);
    EXPECT_DOUBLE_EQ(learning_rate(ramp, {0, 0}), 0.025);     // 10 of 400 tokens
    EXPECT_DOUBLE_EQ(learning_rate(ramp, {5, 50}), 0.175);    // 70
    EXPECT_DOUBLE_EQ(learning_rate(ramp, {10, 170}), 0.525);  // 210
    // The run ends a sequence later than the whole batch's.
    EXPECT_NEAR(learning_rate(ramp, {60, 2170}), learning_rate(whole, {54, 2170}), 3e-3) << name;
    EXPECT_NEAR(learning_rate(ramp, {105, 3970}), 0.1, 1e-12) << name;
    // In steps they count steps.
    ramp.train.steps = 101;
    ramp.train.tokens = ramp.train.warmup_tokens = 0;
    ramp.train.warmup_steps = 4;
    EXPECT_DOUBLE_EQ(learning_rate(ramp, {2, 20}), 0.75);
    EXPECT_EQ(learning_rate(ramp, {50, 1770}), learning_rate(ramp.train, 50, 101));
  }
}

TEST(Schedule, DecoupledRatesFollowTheSameSchedule) {
  Config c;
  c.train = train_of("cosine", 4);
  EXPECT_EQ(learning_rates(c, {50, 0}).decoupled, learning_rate(c, {50, 0}));
  c.train.decoupled_lr = 3;
  EXPECT_DOUBLE_EQ(learning_rates(c, {1, 0}).decoupled, 1.5);
  EXPECT_NEAR(learning_rates(c, {100, 0}).decoupled, 0.1, 1e-12);  // min_lr
  c.train.decoupled_min_lr = 1;
  EXPECT_NEAR(learning_rates(c, {100, 0}).decoupled, 1, 1e-12);
  EXPECT_NEAR(learning_rates(c, {52, 0}).decoupled, 2, 1e-12);  // halfway from 4 to 100
  EXPECT_EQ(learning_rates(c, {52, 0}).general, learning_rate(c, {52, 0}));
}

TEST(TotalSteps, TokensThatWereTrainedCount) {
  TrainConfig t;
  t.seq_length = 32;
  t.global_batch_size = 4;
  t.tokens = 640;
  EXPECT_EQ(total_steps(t), 5);
  EXPECT_EQ(total_steps(t, {3, 384}), 5);
  t.global_batch_size = 8;
  EXPECT_EQ(total_steps(t, {3, 384}), 4);   // 256 left, in one step
  EXPECT_EQ(total_steps(t, {2, 256}), 4);   // 384 left, in two
  EXPECT_EQ(total_steps(t, {5, 640}), 5);   // nothing left
  EXPECT_EQ(total_steps(t, {9, 1000}), 9);  // nor here
  t.steps = 7;
  EXPECT_EQ(total_steps(t, {3, 384}), 7);
}

TEST(TotalSteps, TokensAreRoundedUpToWholeSteps) {
  TrainConfig t;
  t.seq_length = 10;
  t.global_batch_size = 3;
  t.tokens = 90;
  EXPECT_EQ(total_steps(t), 3);
  t.tokens = 91;
  EXPECT_EQ(total_steps(t), 4);
  t.steps = 7;
  EXPECT_EQ(total_steps(t), 7);
}

}  // namespace
}  // namespace upcycle
