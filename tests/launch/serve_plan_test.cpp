#include "launch/bench/serve_plan.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace upcycle {
namespace {

TEST(ServePlan, BadOptionsAreRefused) {
  const auto refused = [](auto change) {
    LoadOptions o;
    change(o);
    EXPECT_THROW(plan_of(o, 1000, 1), InputError);
  };
  refused([](LoadOptions& o) { o.input_len = 1000; });
  refused([](LoadOptions& o) { o.input_len = -1; });
  refused([](LoadOptions& o) { o.burstiness = 0; });
  refused([](LoadOptions& o) { o.random_range_ratio = 1; });
  refused([](LoadOptions& o) { o.rate_step = -1; });
  refused([](LoadOptions& o) { o.repetitions = -1; });
  refused([](LoadOptions& o) { o.seconds = 0; });
  refused([](LoadOptions& o) { o.batches = "1,,2"; });
  refused([](LoadOptions& o) { o.batches = "0"; });
  refused([](LoadOptions& o) {
    o.requests = "file";
    o.input_len = 3;
  });
}

// A prompt takes more steps where a step takes fewer tokens, and the offline table's sequences decode in all of them.
TEST(ServePlan, SmallStepsMakeLongSequences) {
  LoadOptions o;
  o.input_len = 512;
  o.output_len = 8;
  o.batches = "4";
  const BenchPlan plan = plan_of(o, 100000, 1);
  EXPECT_EQ(longest_sequence(plan, 100000, 0), longest_sequence(plan, 100000, 2048));
  EXPECT_GE(longest_sequence(plan, 100000, 128), 512 + 8 + 4 * 512 / 128 * 3 / 2);
  EXPECT_EQ(longest_sequence(plan, 530, 128), 530);
}

}  // namespace
}  // namespace upcycle
