#include "core/trace.h"

#include <gtest/gtest.h>

#include <thread>

namespace upcycle {
namespace {

class Recorder : public TraceSink {
 public:
  void begin(std::string_view name) override { events.push_back(std::string(name) + " begins"); }
  void end() override { events.emplace_back("-"); }
  std::vector<std::string> events;
};

TEST(TraceRange, BeginsAndEndsInTheSinkItBeganIn) {
  Recorder first, second;
  { const TraceRange nowhere("before any sink"); }
  set_trace_sink(&first);
  {
    const TraceRange step("step");
    { const TraceRange forward("forward"); }
    set_trace_sink(&second);
    const TraceRange backward("backward");
    set_trace_sink(nullptr);
    const TraceRange nowhere("after");
  }
  EXPECT_EQ(first.events, (std::vector<std::string>{"step begins", "forward begins", "-", "-"}));
  EXPECT_EQ(second.events, (std::vector<std::string>{"backward begins", "-"}));
}

TEST(Trace, CountsByGroupAndOpAndKeepsTheLast) {
  reset_trace_counters();
  EXPECT_TRUE(trace_counters().last.op.empty());
  const auto before = std::chrono::steady_clock::now();
  record_collective("dp", 1, "reduce_scatter", 100);
  record_collective("dp", 2, "all_gather", 50);
  record_collective("dp", 3, "reduce_scatter", 20);
  record_collective("tp", 1, "reduce_scatter", 7);
  const TraceCounters c = trace_counters();
  EXPECT_EQ(c.counts.size(), 3u);
  EXPECT_EQ(c.of("dp", "reduce_scatter").calls, 2u);
  EXPECT_EQ(c.of("dp", "reduce_scatter").bytes, 120u);
  EXPECT_EQ(c.of("dp", "all_gather").bytes, 50u);
  EXPECT_EQ(c.of("tp", "reduce_scatter").calls, 1u);
  EXPECT_EQ(c.of("ep", "all_to_all_v").calls, 0u);
  EXPECT_EQ(c.last.group, "tp");
  EXPECT_EQ(c.last.op, "reduce_scatter");
  EXPECT_EQ(c.last.sequence, 1u);
  EXPECT_EQ(c.last.bytes, 7u);
  EXPECT_GE(c.last.when, before);
  record_wait("dp", "all_gather", 0.25);
  record_wait("dp", "all_gather", 0.5);
  record_wait("tp", "reduce_scatter", 1);
  EXPECT_EQ(trace_counters().of("dp", "all_gather").wait_seconds, 0.75);
  EXPECT_EQ(trace_counters().of("dp", "all_gather").calls, 1u);
  EXPECT_EQ(trace_counters().wait_seconds(), 1.75);
  EXPECT_EQ(trace_counters().last.op, "reduce_scatter");  // the last issued, not the last waited for
  reset_trace_counters();
  EXPECT_TRUE(trace_counters().counts.empty());
}

TEST(Trace, CountsExactlyFromSeveralThreads) {
  reset_trace_counters();
  constexpr int calls = 2000;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([t] {
        for (int i = 0; i < calls; ++i) {
          record_collective(t % 2 == 0 ? "dp" : "tp", static_cast<std::uint64_t>(i), "all_reduce", 3);
          if (i % 100 == 0) (void)trace_counters();
        }
      });
  }
  EXPECT_EQ(trace_counters().of("dp", "all_reduce").calls, 2u * calls);
  EXPECT_EQ(trace_counters().of("tp", "all_reduce").bytes, 6u * calls);
  reset_trace_counters();
}

}  // namespace
}  // namespace upcycle
