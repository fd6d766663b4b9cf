#include "launch/bench/sweep.h"

#include <gtest/gtest.h>

#include "tests/launch/sixteen.h"

namespace upcycle {
namespace {

TEST(Sweep, CapacityIsThatOfTheServer) {
  Sixteen s;
  const Capacity c = measure_capacity(s.server, s.workload, 64, 1e9, 2, {});
  EXPECT_EQ(c.requests, 64);
  EXPECT_NEAR(c.one_alone, 0.5, 1e-9);
  EXPECT_NEAR(c.request_throughput, kCapacity, 0.01);
  EXPECT_NEAR(c.metrics.total_token_throughput, kCapacity * 30, 0.5);
  EXPECT_EQ(c.metrics.completed, 128);
  // The time that it may take bounds the number.
  EXPECT_LT(measure_capacity(s.server, s.workload, 1 << 20, 30, 1, {}).requests, 500);
}

TEST(Sweep, TheHighestRateIsTheLastBelowCapacity) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    Sixteen s;
    s.workload.seed = seed;
    SweepOptions options;
    options.rate_step = 2;
    options.repetitions = 3;
    const Sweep found = sweep_rates(s.server, s.workload, options);
    EXPECT_GE(found.max_rate, 14);
    EXPECT_LE(found.max_rate, kCapacity);
    EXPECT_LE(found.max_rate_high, kCapacity);
    EXPECT_TRUE(found.ended.empty());
    for (const RatePoint& p : found.points) {
      EXPECT_EQ(p.window, 60);
      if (p.rate <= 12) {
        EXPECT_TRUE(p.sustained_by_all()) << p.rate;
        EXPECT_NEAR(p.metrics.request_throughput, p.rate, 4 * std::sqrt(p.rate / 180));
      }
    }
    EXPECT_GE(found.points.back().rate, 16);
  }
}

TEST(Sweep, AWindowIsAtLeastFiveLatencies) {
  Sixteen s;
  s.workload.output_len = 270;  // 13.5 s
  const RatePoint p = measure_rate(s.server, s.workload, 0.2, {});
  EXPECT_NEAR(p.window, 1.2 * kWindowLatencies * 13.5, 1);
  EXPECT_TRUE(p.sustained_by_all());
  SweepOptions fixed;
  fixed.window_grows = false;
  EXPECT_EQ(measure_rate(s.server, s.workload, 0.2, fixed).window, 60);
}

TEST(Sweep, TimeAndTheNumberOfRatesAreBounds) {
  Sixteen s;
  SweepOptions options;
  options.rate_step = 1;
  options.seconds = 200;
  const double begin = s.server.now();
  const Sweep found = sweep_rates(s.server, s.workload, options);
  EXPECT_EQ(found.points.size(), 2);
  EXPECT_NE(found.ended.find("time"), found.ended.npos);
  EXPECT_LE(s.server.now() - begin, 200);
  options = {};
  options.rate_step = 1;
  options.most_rates = 3;
  EXPECT_EQ(sweep_rates(s.server, s.workload, options).points.size(), 3);
  options.rate_step = 1e6;  // a command line may ask for it
  EXPECT_NE(sweep_rates(s.server, s.workload, options).ended.find("memory"), std::string::npos);
}

TEST(Sweep, ThroughputIsReadOffTheCurve) {
  const auto point = [](double latency, double throughput) {
    RatePoint p;
    p.metrics.e2el.mean = latency;
    p.metrics.total_token_throughput = throughput;
    return p;
  };
  const std::vector<RatePoint> curve{point(100, 10), point(200, 30), point(190, 50), point(400, 60)};
  EXPECT_EQ(throughput_at(curve, 150), 20);
  EXPECT_EQ(throughput_at(curve, 195), 50 + 10 * 5.0 / 210);
  EXPECT_EQ(throughput_at(curve, 50), 0);
  EXPECT_EQ(throughput_at(curve, 500), 0);
}

}  // namespace
}  // namespace upcycle
