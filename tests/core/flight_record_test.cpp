#include "core/flight_record.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>

#include "core/stack_text.h"

namespace upcycle {
namespace {

const FlightCall& call_at(std::uint64_t number) { return flight_record().call[(number - 1) % FlightRecord::kCalls]; }

TEST(FlightRecord, PlacesNest) {
  flight_step(7);
  {
    const InPhase evaluating(Phase::Evaluating);
    {
      const InLayer layer(3);
      const Place p = place_in(flight_record());
      EXPECT_EQ(p.phase, Phase::Evaluating);
      EXPECT_EQ(p.layer, 3);
      EXPECT_EQ(p.step, 7);
      const InPhase saving(Phase::Saving);
      EXPECT_EQ(place_in(flight_record()).layer, -1);
    }
    EXPECT_EQ(place_in(flight_record()).phase, Phase::Evaluating);
    EXPECT_EQ(place_in(flight_record()).layer, -1);
  }
  EXPECT_EQ(place_in(flight_record()).phase, Phase::Starting);
}

TEST(FlightRecord, KeepsTheLastCalls) {
  const std::uint64_t first = flight_started("dp", "all_reduce", 1, 100, flight_clock());
  EXPECT_EQ(call_at(first).ended, 0);
  flight_ended(first);
  EXPECT_GE(call_at(first).ended, call_at(first).started);
  std::uint64_t last = 0;
  for (std::uint64_t i = 0; i < FlightRecord::kCalls; ++i)
    last = flight_started("a group of a long name", "reduce_scatter", 2 + i, 5, flight_clock());
  EXPECT_EQ(last, first + FlightRecord::kCalls);
  flight_ended(first);  // another call has its place by now
  EXPECT_EQ(call_at(last).number, last);
  EXPECT_EQ(call_at(last).ended, 0);
  EXPECT_STREQ(call_at(last).group, "a group of a lo");
  EXPECT_STREQ(call_at(last).op, "reduce_scatter");
  EXPECT_EQ(call_at(last).sequence, 1 + FlightRecord::kCalls);
}

Place entered;

TEST(FlightRecord, AHookSeesWhereTheProcessEnters) {
  set_place_hook([](const Place& p) { entered = p; });
  {
    const InPhase phase(Phase::Updating);
    EXPECT_EQ(entered.phase, Phase::Updating);
    const InLayer layer(2);
    EXPECT_EQ(entered.layer, 2);
  }
  {
    InPhase phase(Phase::Forward);
    phase.next(Phase::Backward);
    EXPECT_EQ(entered.phase, Phase::Backward);
  }
  EXPECT_EQ(place_in(flight_record()).phase, Phase::Starting);
  set_place_hook(nullptr);
  const InPhase phase(Phase::Saving);
  EXPECT_EQ(entered.phase, Phase::Backward);
}

volatile int raised = 0;
[[gnu::noinline]] void a_function_by_name() { raised = raise(kStackSignal); }  // the assignment keeps its frame

// What other processes do: ask, signal, read. Calls from before are kept when the record moves to shared memory.
TEST(FlightRecord, AnswersWithItsStack) {
  const std::uint64_t before = flight_started("tp", "barrier", 9, 0, flight_clock());
  const int file = share_flight_record();
  ASSERT_GE(file, 0);
  EXPECT_EQ(share_flight_record(), file);
  EXPECT_EQ(call_at(before).sequence, 9U);
  FlightRecord& r = flight_record();
  EXPECT_NE(r.token, 0U);
  const std::uint32_t number = r.asked.fetch_add(1) + 1;
  a_function_by_name();
  ASSERT_EQ(r.given.load(), number);
  ASSERT_GT(r.frames, 3);
  std::string all;
  for (const std::string& line : stack_text(getpid(), {r.address, static_cast<std::size_t>(r.frames)}))
    all += line + "\n";
  EXPECT_NE(all.find("a_function_by_name()+0x"), std::string::npos) << all;
  EXPECT_NE(all.find(" in test_core\n"), std::string::npos) << all;
}

TEST(StackText, SaysWhatItCanOfAnyAddress) {
  EXPECT_EQ(stack_text(getpid(), std::vector<std::uint64_t>{0, 1}), (std::vector<std::string>{"0x0", "0x1"}));
  EXPECT_EQ(stack_text(1 << 30, std::vector<std::uint64_t>{4096}), std::vector<std::string>{"0x1000"});
}

}  // namespace
}  // namespace upcycle
