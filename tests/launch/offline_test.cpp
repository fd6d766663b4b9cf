#include "launch/bench/offline.h"

#include <gtest/gtest.h>

#include "tests/launch/fake_server.h"

namespace upcycle {
namespace {

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
