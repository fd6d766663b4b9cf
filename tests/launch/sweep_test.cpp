#include "launch/bench/sweep.h"

#include <gtest/gtest.h>

#include "launch/bench/offline.h"
#include "tests/launch/fake_server.h"

namespace upcycle {
namespace {

// 8 requests at a time, 10 steps of 0.05 s each: 16 requests/s at most, 0.5 s of latency.
constexpr double kCapacity = 16;
struct Sixteen {
  FakeServer server{8, 0.05};
  Workload workload;
  Sixteen() {
    workload.input_len = 20;
    workload.output_len = 10;
    workload.vocab_size = 50;
  }
};

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

// Slow growth is growth: 5 % above capacity.
TEST(Sweep, ALittleTooMuchIsNotSustained) {
  Sixteen s;
  s.workload.burstiness = 100;  // nearly even, so that it is the rate that decides
  SweepOptions options;
  options.repetitions = 2;
  EXPECT_FALSE(measure_rate(s.server, s.workload, kCapacity * 1.05, options).sustained_by_any());
  EXPECT_TRUE(measure_rate(s.server, s.workload, kCapacity * 0.95, options).sustained_by_all());
}

TEST(Sweep, FailuresAreNotCompleted) {
  Sixteen s;
  s.server.fails_every = 10;
  const RatePoint p = measure_rate(s.server, s.workload, 4, {});
  EXPECT_FALSE(p.sustained_by_any());
  EXPECT_NEAR(p.verdicts[0].completed_share, 0.9, 0.02);
  EXPECT_GT(p.metrics.failed, 20);
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

TEST(Offline, PromptsAndDecodingAreMeasuredApart) {
  FakeServer server(8, 0.05, 0.001);
  const auto row = measure_offline(server, 100, 10, 4, 50, 1000);
  ASSERT_TRUE(row.has_value());
  EXPECT_NEAR(row->T_PP, 0.05 + 0.4, 1e-9);
  EXPECT_NEAR(row->T_TG, 0.5, 1e-9);
  EXPECT_NEAR(row->S_PP(), 400 / 0.45, 1e-6);
  EXPECT_NEAR(row->S_TG(), 80, 1e-6);
  EXPECT_EQ(row->N_KV(), 440);
  EXPECT_FALSE(server.busy());
  EXPECT_FALSE(measure_offline(server, 100, 10, 9, 50, 1000).has_value());  // 8 at a time
  EXPECT_FALSE(server.busy());
  EXPECT_FALSE(measure_offline(server, 100, 10, 4, 50, 105).has_value());
  EXPECT_FALSE(server.busy());
}

}  // namespace
}  // namespace upcycle
