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

}  // namespace
}  // namespace upcycle
