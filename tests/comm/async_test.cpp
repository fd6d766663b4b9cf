#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/trace.h"
#include "tests/comm/group.h"
#include "tests/comm/inputs.h"

// Transfers in flight while a rank does something else.
namespace upcycle::test {
namespace {

// So small that a call takes many rounds: a rank that did not advance a group's next round would block the others.
constexpr MpiLimits kTiny{.piece_bytes = 64, .scratch_bytes = 1 << 20, .message_bytes = 104, .small_bytes = 16};

// A reduce-scatter of n elements per rank, and its expected result.
struct Sum {
  Buffer in, out, expected;
  Sum(Communicator& group, std::int64_t n, int seed)
      : in(DType::F32, n * group.size()), out(DType::F32, n), expected(DType::F32, n) {
    const auto input = [seed](int rank, std::int64_t i) { return rough(rank, i + 1000 * seed); };
    in.fill(group.rank(), input);
    for (std::int64_t i = 0; i < n; ++i)
      store_sum(DType::F32, expected.data(), i, group.rank() * n + i, group.size(), input);
  }
  Event start(Communicator& group) { return group.reduce_scatter(out.tensor(), in.tensor()); }
};

// Even ranks wait for one group first, odd ones for the other: each must advance both.
TEST(Async, RanksWaitForTwoGroupsInOppositeOrders) {
  const auto a = make_test_group("a", kTiny), b = make_test_group("b", kTiny);
  const int rank = a->rank(), size = a->size();
  for (int again = 0; again < 5; ++again) {
    Sum sum(*a, 301, again);
    Buffer part(DType::F32, 403), all(DType::F32, 403 * size), expected(DType::F32, 403 * size);
    part.fill(rank, whole);
    for (std::int64_t i = 0; i < 403 * size; ++i)
      store(DType::F32, expected.data(), i, whole(static_cast<int>(i / 403), i % 403));
    const Event summed = sum.start(*a), gathered = b->all_gather(all.tensor(), part.tensor());
    wait(rank % 2 == 0 ? summed : gathered);
    wait(rank % 2 == 0 ? gathered : summed);
    EXPECT_TRUE(sum.out == sum.expected);
    EXPECT_TRUE(all == expected);
  }
}

TEST(Async, ManyWaitInLineBesideBlockingCallsOfAnotherGroup) {
  const auto line = make_test_group("line", kTiny), other = make_test_group("other", kTiny);
  std::vector<Sum> sums;
  for (int i = 0; i < 40; ++i) sums.emplace_back(*line, 1 + 17 * i % 97, i);
  std::vector<Event> events;
  for (std::size_t i = 0; i < sums.size(); ++i) {
    events.push_back(sums[i].start(*line));
    if (i % 3 == 0) {
      EXPECT_EQ(other->sum_of(static_cast<double>(i)), static_cast<double>(i) * other->size());
    }
    if (i % 5 == 0) other->barrier();
  }
  // The last one first: all earlier ones are then done too.
  std::reverse(events.begin(), events.end());
  for (const Event& e : events) wait(e);
  for (const Event& e : events) wait(e);  // waiting twice is allowed
  for (std::size_t i = 0; i < sums.size(); ++i) EXPECT_TRUE(sums[i].out == sums[i].expected) << i;
}

TEST(Async, AFullLineWaitsForItsOldest) {
  const auto group = make_test_group("long");
  std::vector<Sum> sums;
  for (int i = 0; i < 700; ++i) sums.emplace_back(*group, 3, i);  // more than two rings of operations
  Event last;
  for (Sum& s : sums) last = s.start(*group);
  wait(last);
  for (std::size_t i = 0; i < sums.size(); ++i) EXPECT_TRUE(sums[i].out == sums[i].expected) << i;
}

TEST(Async, MixedCallsKeepTheirCountsWhileTheyWaitInLine) {
  const auto group = make_test_group("mixed", kTiny);
  const int rank = group->rank(), size = group->size();
  constexpr int n = 20;
  std::vector<Buffer> in, out, expected;
  Event last;
  for (int i = 0; i < n; ++i) {
    // i + from + to rows travel from one rank to another.
    std::vector<std::int64_t> send, receive;
    std::int64_t sent = 0, received = 0;
    for (int r = 0; r < size; ++r) {
      send.push_back(i + rank + r);
      receive.push_back(i + r + rank);
      sent += send.back();
      received += receive.back();
    }
    in.emplace_back(DType::I32, sent).fill(rank, [&](int, std::int64_t) { return i * 10 + rank; });
    out.emplace_back(DType::I32, received);
    Buffer& want = expected.emplace_back(DType::I32, received);
    for (std::int64_t at = 0, r = 0; r < size; ++r)
      for (std::int64_t k = 0; k < receive[static_cast<std::size_t>(r)]; ++k)
        store(DType::I32, want.data(), at++, static_cast<double>(i * 10 + r));
    last = group->all_to_all_v(out.back().tensor(received, 1), receive, in.back().tensor(sent, 1), send);
    // The vectors of counts end here; the buffers of earlier calls have moved within `in`, their bytes have not.
  }
  wait(last);
  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_TRUE(out[i] == expected[i]) << i;
}

TEST(Async, PollingAloneMovesATransfer) {
  const auto group = make_test_group("polled", kTiny);
  Sum sum(*group, 1000, 0);
  reset_trace_counters();
  const Event event = sum.start(*group);
  // Checked early only to see it advance; the alarm of the test's main ends a transfer that does not.
  while (!(sum.out == sum.expected)) test_stream().poll();
  for (int i = 0; i < 1000; ++i) test_stream().poll();
  wait(event);
  EXPECT_EQ(trace_counters().of("polled", "reduce_scatter").wait_seconds, 0);
}

// As dependent kernels on a stream: the second call reads what the first one writes.
TEST(Async, CallsOfOneGroupMayFollowEachOtherUnwaited) {
  for (const MpiLimits& limits : {kTiny, MpiLimits{}}) {
    const auto group = make_test_group("chain", limits);
    const int rank = group->rank(), size = group->size();
    const std::int64_t n = 555;
    Buffer data(DType::BF16, n * size), waited(DType::BF16, n * size);
    data.fill(rank, rough);
    waited.fill(rank, rough);
    wait(group->all_reduce(waited.tensor()));
    const Tensor mine = data.tensor().slice_rows(rank * n, (rank + 1) * n);
    group->reduce_scatter(mine, data.tensor());
    wait(group->all_gather(data.tensor(), mine));
    EXPECT_TRUE(data == waited);
  }
}

TEST(Async, WhatWasWaitedForMayBeFreed) {
  const auto group = make_test_group("freed", kTiny), other = make_test_group("other", kTiny);
  const auto device = make_cpu_device();
  const std::int64_t n = 4096, part = n / group->size();
  Sum later(*other, 2000, 1);
  const Event still_running = later.start(*other);
  for (int i = 0; i < 20; ++i) {
    void* data = device->allocate(static_cast<std::size_t>(n) * 4);
    const Tensor all(data, DType::F32, {part * group->size()});
    wait(group->all_gather(all, all.slice_rows(part * group->rank(), part * (group->rank() + 1))));
    device->release(data, static_cast<std::size_t>(n) * 4);  // unmapped: a late access would end this process
  }
  wait(still_running);
  EXPECT_TRUE(later.out == later.expected);
}

TEST(Async, TheEndOfAGroupFinishesWhatIsInLine) {
  auto group = make_test_group("ending", kTiny);
  std::vector<Sum> sums;
  for (int i = 0; i < 5; ++i) sums.emplace_back(*group, 200, i);
  Event last;
  for (Sum& s : sums) last = s.start(*group);
  group.reset();
  for (const Sum& s : sums) EXPECT_TRUE(s.out == s.expected);
  wait(last);  // an event may outlive its group
}

class Names : public TraceSink {
 public:
  void begin(std::string_view name) override { names.emplace_back(name); }
  void end() override { ++ended; }
  std::vector<std::string> names;
  std::size_t ended = 0;
};

TEST(Async, AWaitThatBlocksIsTracedAndTimed) {
  const auto group = make_test_group("traced");
  if (group->size() == 1) return;  // nothing to wait for
  Names names;
  Sum sum(*group, 100, 0);
  group->barrier();
  reset_trace_counters();
  set_trace_sink(&names);
  if (group->rank() == 0) usleep(30000);
  wait(sum.start(*group));
  set_trace_sink(nullptr);
  const CollectiveCount count = trace_counters().of("traced", "reduce_scatter");
  EXPECT_EQ(count.calls, 1u);
  EXPECT_EQ(names.names[0], "traced reduce_scatter");
  EXPECT_EQ(names.ended, names.names.size());
  if (group->rank() == 0) return;  // the others may all have come before it
  EXPECT_EQ(names.names, (std::vector<std::string>{"traced reduce_scatter", "wait traced reduce_scatter"}));
  EXPECT_GT(count.wait_seconds, 0);
  EXPECT_EQ(trace_counters().wait_seconds(), count.wait_seconds);
}

#ifndef __SANITIZE_ADDRESS__
TEST(Async, CallsDoNotGrowTheHeap) {
  const auto group = make_test_group("steady", kTiny);
  Sum a(*group, 300, 0), b(*group, 50, 1);
  std::vector<std::int64_t> ones(static_cast<std::size_t>(group->size()), 1);
  const auto step = [&] {
    const Event first = a.start(*group), second = b.start(*group);
    wait(group->all_to_all_v(a.out.tensor(), ones, a.in.tensor(), ones));
    wait(second);
    wait(first);
    wait(group->all_reduce(b.in.tensor()));
  };
  const auto heap = [] {
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
  };
  // MPI's own pools grow now and then, by as much as timing asks for. What every call left behind would grow every
  // round; the smallest event takes more than 16 bytes.
  constexpr int kSteps = 200;
  std::size_t least = SIZE_MAX;
  for (int round = 0; round < 10; ++round) {
    const std::size_t before = heap();
    for (int i = 0; i < kSteps; ++i) step();
    const std::size_t after = heap();
    least = std::min(least, after > before ? after - before : 0);
  }
  EXPECT_LT(least, kSteps * 16U);
}
#endif

}  // namespace
}  // namespace upcycle::test
