#include "launch/bench/sustained.h"

#include <gtest/gtest.h>

#include "launch/bench/sweep.h"
#include "tests/launch/sixteen.h"

namespace upcycle {
namespace {

// Slow growth is growth: 5 % above capacity.
TEST(Sustained, ALittleTooMuchIsNotSustained) {
  Sixteen s;
  s.workload.burstiness = 100;  // nearly even, so that it is the rate that decides
  SweepOptions options;
  options.repetitions = 2;
  EXPECT_FALSE(measure_rate(s.server, s.workload, kCapacity * 1.05, options).sustained_by_any());
  EXPECT_TRUE(measure_rate(s.server, s.workload, kCapacity * 0.95, options).sustained_by_all());
}

TEST(Sustained, FailuresAreNotCompleted) {
  Sixteen s;
  s.server.fails_every = 10;
  const RatePoint p = measure_rate(s.server, s.workload, 4, {});
  EXPECT_FALSE(p.sustained_by_any());
  EXPECT_NEAR(p.verdicts[0].completed_share, 0.9, 0.02);
  EXPECT_GT(p.metrics.failed, 20);
}

}  // namespace
}  // namespace upcycle
