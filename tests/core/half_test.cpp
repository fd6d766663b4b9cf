#include "core/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace upcycle {
namespace {

constexpr std::uint16_t infinity = 0x7c00;

TEST(Half, ReadsEveryNumber) {
  for (std::uint16_t h = 0; h < infinity; ++h) {
    const int exponent = h >> 10, fraction = h & 0x3ff;
    const double value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    ASSERT_EQ(half_to_float(h), value) << h;
    ASSERT_EQ(half_to_float(static_cast<std::uint16_t>(h | 0x8000)), -value) << h;
  }
  EXPECT_TRUE(std::signbit(half_to_float(0x8000)));
  EXPECT_EQ(half_to_float(infinity - 1), largest_half);
  EXPECT_EQ(half_to_float(infinity), INFINITY);
  EXPECT_TRUE(std::isnan(half_to_float(infinity + 1)));
}

TEST(Half, EveryNumberComesBack) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto h = static_cast<std::uint16_t>(i);
    const bool nan = (h & 0x7fff) > infinity;  // signalling ones become quiet
    ASSERT_EQ(float_to_half(half_to_float(h)), nan ? h | 0x200 : h);
  }
}

TEST(Half, RoundsToNearestAndTiesToEven) {
  for (std::uint16_t low = 0; low < infinity; ++low) {
    const auto high = static_cast<std::uint16_t>(low + 1);
    const float a = half_to_float(low), b = high == infinity ? 65536 : half_to_float(high), middle = (a + b) / 2;
    for (const std::uint16_t sign : {std::uint16_t{0}, std::uint16_t{0x8000}}) {
      const auto rounded = [&](float x) { return float_to_half(sign != 0 ? -x : x); };
      ASSERT_EQ(rounded(std::nextafter(middle, a)), sign | low);
      ASSERT_EQ(rounded(middle), sign | (low % 2 == 0 ? low : high));
      ASSERT_EQ(rounded(std::nextafter(middle, b)), sign | high);
    }
  }
  for (const float large : {65536.0f, 1e30f, std::numeric_limits<float>::max(), INFINITY})
    EXPECT_EQ(float_to_half(-large), 0x8000 | infinity);
  EXPECT_EQ(float_to_half(std::numeric_limits<float>::denorm_min()), 0);
  for (const std::uint32_t nan : {0x7f800001u, 0x7fc12345u, 0xffffffffu})
    EXPECT_TRUE(std::isnan(half_to_float(float_to_half(std::bit_cast<float>(nan)))));
}

}  // namespace
}  // namespace upcycle
