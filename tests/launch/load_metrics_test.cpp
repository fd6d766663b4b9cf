#include "launch/bench/load_metrics.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/launch/fake_server.h"

namespace upcycle {
namespace {

LoadRun loaded(Server& server) {
  Workload w;
  w.input_len = 8;
  w.output_len = 4;
  w.vocab_size = 50;
  return drive(server, draw_requests(w, draw_arrivals(w, 4, 50, 1), 1), std::numeric_limits<double>::infinity());
}

TEST(LoadMetrics, SummariesAndGoodput) {
  const Summary s = summary_of({4, 1, 3, 2});
  EXPECT_EQ(s.mean, 2.5);
  EXPECT_EQ(s.median, 2.5);
  EXPECT_DOUBLE_EQ(s.p90, 3.7);
  EXPECT_NEAR(s.std, 1.118034, 1e-6);
  EXPECT_EQ(summary_of({}).count, 0);

  FakeServer server(4, 0.1);
  const WindowedRun all{loaded(server), {0, 1000}};
  EXPECT_DOUBLE_EQ(metrics_of(std::span(&all, 1), parse_goodput("tpot:101 e2el:1e9")).request_goodput,
                   metrics_of(std::span(&all, 1), {}).request_throughput);
  EXPECT_EQ(metrics_of(std::span(&all, 1), parse_goodput("tpot:99,ttft:1e9")).request_goodput, 0);
  for (const char* bad : {"ttft", "ttft:", "ttft:-1", "itl:5", "ttft:5x", "ttft:nan"})
    EXPECT_THROW(parse_goodput(bad), InputError) << bad;
}

}  // namespace
}  // namespace upcycle
