#include "launch/bench/drive.h"

#include <gtest/gtest.h>

#include <limits>

#include "launch/bench/load_metrics.h"
#include "tests/launch/fake_server.h"

namespace upcycle {
namespace {

constexpr double kForever = std::numeric_limits<double>::infinity();

Workload requests_of(std::int64_t output_len) {
  Workload w;
  w.input_len = 8;
  w.output_len = output_len;
  w.vocab_size = 50;
  return w;
}

LoadRun run(Server& server, const Workload& w, double rate, double seconds, double stop_at = kForever) {
  return drive(server, draw_requests(w, draw_arrivals(w, rate, seconds, 1), 1), stop_at);
}

TEST(Drive, EachRequestIsRecordedAsItCameAndWent) {
  FakeServer server(4, 0.1);
  Workload w = requests_of(5);
  w.range_ratio = 0.9;  // one output token is among the lengths
  const std::vector<double> arrivals = draw_arrivals(w, 5, 60, 1);
  const LoadRun r = drive(server, draw_requests(w, arrivals, 1), kForever);
  ASSERT_EQ(r.requests.size(), arrivals.size());
  std::int64_t alone = 0;
  for (std::size_t i = 0; i < arrivals.size(); ++i) {
    const RequestRecord& request = r.requests[i];
    EXPECT_EQ(request.arrival, arrivals[i]);  // offered is what was drawn
    ASSERT_EQ(request.ending, Ending::Completed);
    EXPECT_GT(request.ttft(), 0);
    ASSERT_EQ(static_cast<std::int64_t>(request.tokens.size()), request.output_len);
    if (request.has_tpot()) {
      const double e2el = request.tpot() * static_cast<double>(request.output_len - 1) + request.ttft();
      EXPECT_NEAR(e2el, request.e2el(), 1e-12);
    } else {
      EXPECT_EQ(request.ttft(), request.e2el());
      ++alone;
    }
  }
  EXPECT_GT(alone, 0);
  const WindowedRun all{r, {0, r.duration + 1}};
  const LoadMetrics m = metrics_of(std::span(&all, 1), {});
  EXPECT_EQ(m.completed, static_cast<std::int64_t>(arrivals.size()));
  EXPECT_EQ(m.drawn, m.completed);
  EXPECT_EQ(m.tpot.count, m.completed - alone);
  EXPECT_EQ(m.itl.count, m.total_output_tokens - m.completed);
  EXPECT_EQ(m.queue_mean * 0, 0);
  EXPECT_EQ(m.experts_per_step, 2);
  EXPECT_NEAR(m.request_throughput * m.duration, static_cast<double>(m.completed), 1e-9);
  EXPECT_NEAR(m.total_token_throughput * m.duration, static_cast<double>(m.total_input_tokens + m.total_output_tokens),
              1e-6);
}

// A step in which a request comes does not see it: its latency counts from its arrival all the same.
TEST(Drive, WaitingForTheServerCounts) {
  FakeServer server(1, 1.0);
  const Workload w = requests_of(3);
  const LoadRun r = drive(server, draw_requests(w, {0, 0.5}, 1), kForever);
  EXPECT_DOUBLE_EQ(r.requests[0].ttft(), 1);
  EXPECT_DOUBLE_EQ(r.requests[0].e2el(), 3);
  EXPECT_DOUBLE_EQ(r.requests[1].ttft(), 3.5);
  EXPECT_DOUBLE_EQ(r.requests[1].e2el(), 5.5);
  EXPECT_EQ(crowd_of(r, {0, 6}, Leaves::AtFirstToken).most, 2);  // the second comes before the first token
  EXPECT_DOUBLE_EQ(crowd_of(r, {0, 6}, Leaves::AtEnd).mean, (3 + 5.5) / 6);
}

TEST(Drive, FailuresAreCountedAndWhatIsLeftIsCancelled) {
  FakeServer server(4, 0.1);
  server.fails_every = 3;
  const LoadRun r = run(server, requests_of(4), 4, 20);
  std::int64_t failed = 0;
  for (std::size_t i = 0; i < r.requests.size(); ++i) {
    EXPECT_EQ(r.requests[i].ending, i % 3 == 0 ? Ending::Failed : Ending::Completed);
    failed += i % 3 == 0 ? 1 : 0;
  }
  const WindowedRun all{r, {5, 15}};  // failures outside the window count too
  const LoadMetrics m = metrics_of(std::span(&all, 1), {});
  EXPECT_EQ(m.failed, failed);
  EXPECT_EQ(m.errors.size(), 1);

  FakeServer strict(4, 0.1);
  strict.longest = 11;
  const LoadRun refused = run(strict, requests_of(4), 4, 5);
  for (const RequestRecord& request : refused.requests) {
    EXPECT_EQ(request.ending, Ending::Failed);
    EXPECT_NE(request.error.find("too long"), request.error.npos);
  }

  FakeServer slow(1, 1);
  const LoadRun cut = run(slow, requests_of(4), 4, 20, 10);
  EXPECT_FALSE(slow.busy());
  EXPECT_EQ(cut.requests.back().ending, Ending::Unfinished);
  EXPECT_NEAR(cut.duration, 10, 1);
}

}  // namespace
}  // namespace upcycle
