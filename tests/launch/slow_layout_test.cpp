#include "launch/slow_layout.h"

#include <gtest/gtest.h>

#include "launch/plan_fit.h"
#include "tests/plan/planned_by_hand.h"

namespace upcycle {
namespace {

TEST(SlowLayout, NamesWhatCrossesTheNetworkAndWhatOutweighsProducts) {
  EXPECT_TRUE(
      slow_layout(plan_with({.world = 16, .tp = 2, .dp = 8, .ep = 4, .etp = 1, .edp = 4}), kRates, false).empty());
  const auto wide =
      slow_layout(plan_with({.world = 16, .tp = 16, .dp = 1, .ep = 16, .etp = 1, .edp = 1}), kRates, false);
  ASSERT_EQ(wide.size(), 2u);
  EXPECT_NE(wide[0].find("parallel.tp = 16 spans machines of 8 ranks"), std::string::npos);
  EXPECT_NE(wide[1].find("parallel.ep * parallel.etp = 16"), std::string::npos);
  Plan p = plan_with({.world = 16, .tp = 2, .dp = 8, .ep = 4, .etp = 1, .edp = 4});
  p.offload.host_memory = 1e12;
  p.memory_bytes = 2.5e12;
  const auto timed = slow_layout(p, kRates, true);
  ASSERT_EQ(timed.size(), 3u);
  EXPECT_NE(timed[0].find("collectives take"), std::string::npos);
  EXPECT_NE(timed[1].find("the offloaded update takes"), std::string::npos);
  EXPECT_NE(timed[2].find("train.micro_batch_size"), std::string::npos);
}

// What a plan takes for an H100 where no machine file is given.
TEST(StepRates, OfAnH100AreThoseOfItsMachineFile) {
  const StepRates ours = rates_of_h100(1).rates,
                  file = rates_of(UPCYCLE_ROOT "/launch/machines/h100.json", DType::BF16).rates;
  EXPECT_EQ(ours.memory, file.memory);
  EXPECT_EQ(ours.link, file.link);
  EXPECT_EQ(ours.latency, file.latency);
}

}  // namespace
}  // namespace upcycle
