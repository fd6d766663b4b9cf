#include "core/config/batch_ramp.h"

#include <gtest/gtest.h>

#include "core/config/check.h"

namespace upcycle {
namespace {

TrainConfig ramp(std::int64_t whole, std::int64_t start, std::int64_t increment, std::int64_t samples) {
  TrainConfig t;
  t.global_batch_size = whole;
  t.rampup_batch_size = {start, increment, samples};
  t.seq_length = 16;
  return t;
}

// What Megatron's calculator gives for --global-batch-size 1536 --rampup-batch-size 32 32 1953125 after
// update(consumed), worked out by hand: 47 increments, one every 41555.85 samples.
TEST(BatchRamp, HasMegatronsSizes) {
  const TrainConfig t = ramp(1536, 32, 32, 1953125);
  for (const auto& [consumed, batch] : std::initializer_list<std::pair<std::int64_t, std::int64_t>>{{0, 32},
                                                                                                    {41555, 32},
                                                                                                    {41556, 64},
                                                                                                    {83111, 64},
                                                                                                    {976562, 768},
                                                                                                    {1911569, 1472},
                                                                                                    {1911570, 1504},
                                                                                                    {1953124, 1504},
                                                                                                    {1953125, 1536},
                                                                                                    {1953126, 1536}})
    EXPECT_EQ(batch_size_at(t, consumed), batch) << consumed;
  // Its loop over iterations, while the ramp lasts: 5766, which consume 1954304.
  EXPECT_EQ(steps_for(t, 0, 1953125), 5766);
  EXPECT_EQ(samples_in(t, 0, 5766), 1954304);
}

// Batches of 16, 32, 48 from 0, 336 and 688 on, the whole 64 from 1024 on.
TEST(BatchRamp, AStepGrowsWhereTheOneBeforeItPassedTheNextIncrement) {
  const TrainConfig t = ramp(64, 16, 16, 1000);
  EXPECT_EQ(samples_in(t, 0, 21), 336);
  EXPECT_EQ(samples_in(t, 0, 22), 336 + 32);
  EXPECT_EQ(samples_in(t, 336, 11), 688 - 336);
  EXPECT_EQ(samples_in(t, 688, 8), 1024 + 64 - 688);
  EXPECT_EQ(steps_for(t, 0, 2000), 55);
  EXPECT_EQ(samples_in(t, 0, 55), 2048);
}

// A ramp shorter than its steps leaves sizes out: 8, then 40.
TEST(BatchRamp, LeavesOutSizesThatAStepPasses) {
  const TrainConfig t = ramp(48, 8, 8, 10);
  EXPECT_EQ(batch_size_at(t, 8), 40);
  EXPECT_EQ(samples_in(t, 0, 3), 8 + 40 + 48);
}

// The sums are the steps taken one at a time, from any place.
TEST(BatchRamp, SumsAreThoseOfSingleSteps) {
  for (const TrainConfig& t : {ramp(64, 16, 16, 1000), ramp(48, 8, 8, 10), ramp(32, 2, 3, 777), ramp(9, 2, 1, 7),
                               ramp(100, 99, 1, 1), ramp(40, 8, 4, 5000)})
    for (std::int64_t from : {0, 1, 5, 330, 999, 1000, 1001, 4999})
      for (std::int64_t steps = 0, consumed = from; steps < 200; ++steps) {
        EXPECT_EQ(samples_in(t, from, steps), consumed - from);
        EXPECT_EQ(steps_for(t, from, consumed - from), steps);
        EXPECT_EQ(steps_for(t, from, consumed - from + 1), steps + 1);
        consumed += batch_size_at(t, consumed);
      }
}

TEST(BatchRamp, WithoutOneEveryStepIsTheWholeBatch) {
  TrainConfig t = ramp(8, 4, 4, 100);
  t.rampup_batch_size.clear();
  EXPECT_FALSE(ramps_batch(t));
  EXPECT_EQ(batch_size_at(t, 0), 8);
  EXPECT_EQ(samples_in(t, 5, 7), 56);
  EXPECT_EQ(steps_for(t, 5, 57), 8);
  EXPECT_EQ(samples_in(t, 5, 0), 0);
  EXPECT_EQ(steps_for(t, 5, 0), 0);
}

TEST(BatchRamp, StepsAndTokensOfARun) {
  TrainConfig t = ramp(64, 16, 16, 1000);
  t.tokens = 2000 * t.seq_length - 3;
  EXPECT_EQ(total_steps(t), 55);
  EXPECT_EQ(total_tokens(t), 2048 * t.seq_length);
  EXPECT_EQ(total_steps(t, {22, 368 * t.seq_length}), 55);  // resumed in the ramp
  EXPECT_EQ(total_tokens(t, {22, 368 * t.seq_length}), 2048 * t.seq_length);
  t.tokens = 0;
  t.steps = 22;
  EXPECT_EQ(total_tokens(t), 368 * t.seq_length);
}

}  // namespace
}  // namespace upcycle
