#include "core/finite.h"

#include <cmath>
#include <limits>
#include <vector>

namespace upcycle {
namespace {

TEST(Finite, FindsTheFirstOfAnyKindAnywhere) {
  using Limits = std::numeric_limits<float>;
  std::vector<float> x(10001, 1.5f);
  x[3] = Limits::max(), x[4] = Limits::lowest(), x[5] = Limits::denorm_min(), x[6] = -0.0f;
  EXPECT_EQ(first_not_finite(x.data(), 10001), -1);
  EXPECT_EQ(first_not_finite(x.data(), 0), -1);
  for (const float bad : {Limits::quiet_NaN(), -Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()})
    for (const std::int64_t at : {0, 1, 4095, 4096, 8191, 10000}) {
      std::vector<float> y = x;
      y[static_cast<std::size_t>(at)] = y[10000] = bad;
      EXPECT_EQ(first_not_finite(y.data(), 10001), at);
      EXPECT_EQ(first_not_finite(y.data(), at), -1) << "it lies behind the end";
    }
}

}  // namespace
}  // namespace upcycle
