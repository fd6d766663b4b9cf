#include "kernels/cpu/simd.h"

#include <gtest/gtest.h>

#include <cmath>

namespace upcycle {
namespace {

TEST(Simd, FastExpIsWithinTwoUnitsInTheLastPlace) {
  double worst = 0;
  for (std::int64_t bits = 0; bits < (std::int64_t{1} << 32); bits += 4097) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (!(x > -87.33f && x < 88.72f)) continue;
    const double exact = std::exp(static_cast<double>(x));
    int exponent;
    std::frexp(exact, &exponent);
    worst = std::max(worst, std::abs(fast_exp(x) - exact) / std::ldexp(1.0, exponent - 24));
  }
  EXPECT_LT(worst, 2);
  EXPECT_EQ(fast_exp(0), 1);
}

TEST(Simd, FastExpAtTheEnds) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(fast_exp(-kInfinity), 0);
  EXPECT_EQ(fast_exp(-88), 0);
  EXPECT_EQ(fast_exp(-1e30f), 0);
  EXPECT_EQ(fast_exp(kInfinity), kInfinity);
  EXPECT_EQ(fast_exp(89), kInfinity);
  EXPECT_NEAR(fast_exp(88.7f) / std::exp(static_cast<double>(88.7f)), 1, 2e-7);
  EXPECT_TRUE(std::isnan(fast_exp(NAN)));
}

TEST(Simd, StoreRoundsAsToBf16) {
  for (std::int64_t bits = 0; bits < (std::int64_t{1} << 32); bits += 1021) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    bf16 stored;
    store(&stored, x);
    ASSERT_EQ(stored.bits, to_bf16(x).bits) << x;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(load(&stored)), static_cast<std::uint32_t>(stored.bits) << 16);
  }
}

}  // namespace
}  // namespace upcycle
