#include "launch/stragglers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace upcycle {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

// Steps of `step` seconds, of which each rank waits so long.
std::vector<RankTime> ranks(double step, const std::vector<double>& waits) {
  std::vector<RankTime> all;
  for (const double w : waits) all.push_back({step - w, w, -1, 0});
  return all;
}

std::vector<int> slow(const std::vector<RankTime>& all, double ratio = 1.5) {
  std::vector<int> found;
  for (const Straggler& s : compare_ranks(all, ratio).slow) found.push_back(s.rank);
  return found;
}

TEST(Stragglers, TheRankThatTheOthersWaitForIsSlow) {
  // Each step takes 10 s on all ranks; rank 2 works nearly all the time, the others half of it.
  const RankTimes t = compare_ranks(ranks(10, {6, 6, 1, 6}), 1.5);
  EXPECT_DOUBLE_EQ(t.median, 5);
  EXPECT_DOUBLE_EQ(t.longest, 10);
  EXPECT_EQ(t.longest_rank, 2);
  ASSERT_EQ(t.slow.size(), 1U);
  EXPECT_EQ(t.slow[0].rank, 2);
  EXPECT_DOUBLE_EQ(t.slow[0].ratio, 2);
  EXPECT_TRUE(slow(ranks(10, {6, 6, 1, 6}), 2.01).empty());
}

TEST(Stragglers, OfTwoRanksTheFasterIsTheMeasure) {
  EXPECT_EQ(slow(ranks(9, {0.5, 5})), std::vector<int>{0});
  EXPECT_EQ(slow(ranks(9, {5, 0.5})), std::vector<int>{1});
}

TEST(Stragglers, WhatAllSpendInTransfersIsNotAWait) {
  EXPECT_TRUE(slow(ranks(10, {9, 9, 8.7})).empty());
  EXPECT_TRUE(slow(ranks(10, {0, 0, 0})).empty());
  // A transfer of 4 s that all need, and two that wait 1 s for a third: 9 to 10.
  EXPECT_TRUE(slow(ranks(10, {5, 5, 4})).empty());
}

TEST(Stragglers, SeveralMayBeSlow) { EXPECT_EQ(slow(ranks(10, {7, 0, 7, 1, 7})), (std::vector<int>{1, 3})); }

TEST(Stragglers, TheLineSaysWhatIsKnown) {
  std::vector<RankTime> all = ranks(0.1, {0.06, 0.06, 0.06, 0.02});
  RankTimes t = compare_ranks(all, 1.5);
  ASSERT_EQ(t.slow.size(), 1U);
  t.slow[0].host = "vh2";
  EXPECT_EQ(straggler_line(t.slow[0], t, 1.5),
            "rank 3 on vh2 is slow: by itself it takes 100 ms for a step, 1.67 times the median rank's 60 ms, and the "
            "others wait for it (train.straggler_ratio = 1.5)");

  // Work that the router gives is said, and comes first where it is much of the cause.
  for (RankTime& r : all) r.assignments = 1000, r.no_core = 0.012;
  t = compare_ranks(all, 1.5);
  EXPECT_THAT(straggler_line(t.slow.at(0), t, 1.5),
              EndsWith("; its experts computed 1.00 times the median rank's tokens; for 12 ms of a step other work had "
                       "its core"));
  EXPECT_THAT(straggler_line(t.slow.at(0), t, 1.5), HasSubstr(" is slow: "));
  all[3].assignments = 1600;
  t = compare_ranks(all, 1.5);
  EXPECT_THAT(straggler_line(t.slow.at(0), t, 1.5), StartsWith("rank 3 on  has more to do: "));
  EXPECT_THAT(straggler_line(t.slow.at(0), t, 1.5), HasSubstr("its experts computed 1.60 times"));
  EXPECT_THAT(straggler_line(t.slow.at(0), t, 1.5), Not(HasSubstr("is slow")));
}

}  // namespace
}  // namespace upcycle
