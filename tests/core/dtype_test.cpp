#include "core/dtype.h"

#include <cmath>
#include <limits>

#include "core/rng.h"

namespace upcycle {
namespace {

// Round to nearest even by search: of the two bf16 values around x, the nearer in fp64, at a tie the even one. Past the
// largest finite value the next step counts as 2^128, and reaching it is infinity.
std::uint16_t reference(float x) {
  const std::uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const double magnitude = std::abs(static_cast<double>(x));
  const auto value = [](std::uint32_t bits) {
    return bits == 0x7f80 ? 0x1p128 : static_cast<double>(to_float(bf16{static_cast<std::uint16_t>(bits)}));
  };
  if (std::isinf(x)) return sign | 0x7f80;
  std::uint32_t low = 0, high = 0x7f80;  // value(low) <= magnitude < value(high)
  while (high - low > 1) {
    const std::uint32_t middle = (low + high) / 2;
    (value(middle) <= magnitude ? low : high) = middle;
  }
  const double down = magnitude - value(low), up = value(high) - magnitude;
  const std::uint32_t nearest = down < up ? low : up < down ? high : low % 2 == 0 ? low : high;
  return static_cast<std::uint16_t>(sign | nearest);
}

float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }

TEST(DType, SizesAndNames) {
  EXPECT_EQ(size_of(DType::F32), 4u);
  EXPECT_EQ(size_of(DType::BF16), 2u);
  EXPECT_EQ(size_of(DType::F64), 8u);
  EXPECT_EQ(size_of(DType::I32), 4u);
  EXPECT_EQ(size_of(DType::I64), 8u);
  EXPECT_STREQ(name_of(DType::BF16), "bf16");
}

TEST(Bf16, EveryValueSurvivesTheRoundTrip) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const bf16 x{static_cast<std::uint16_t>(bits)};
    if (std::isnan(to_float(x)))
      EXPECT_TRUE(std::isnan(to_float(to_bf16(to_float(x)))));
    else
      EXPECT_EQ(to_bf16(to_float(x)).bits, x.bits);
  }
}

// At every bf16 value: the tie above it and the floats on both sides of the tie, denormals and overflow included.
TEST(Bf16, RoundsToNearestWithTiesToEven) {
  for (std::uint32_t upper = 0; upper < 0x10000; ++upper) {
    if ((upper & 0x7f80) == 0x7f80) continue;  // infinity and NaN
    for (const std::uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float x = from_bits(upper << 16 | lower);
      ASSERT_EQ(to_bf16(x).bits, reference(x)) << std::hex << upper << " " << lower;
    }
  }
}

TEST(Bf16, RandomBitsAgreeWithTheReference) {
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const float x = from_bits(rng::bits(1, 2, i)[0]);
    if (std::isnan(x)) continue;
    ASSERT_EQ(to_bf16(x).bits, reference(x)) << x;
  }
}

TEST(Bf16, KnownValues) {
  EXPECT_EQ(to_bf16(1.0f).bits, 0x3f80);
  EXPECT_EQ(to_bf16(-2.0f).bits, 0xc000);
  EXPECT_EQ(to_bf16(1.00390625f).bits, 0x3f80);  // tie, to even
  EXPECT_EQ(to_bf16(1.01171875f).bits, 0x3f82);  // tie, to even
  EXPECT_EQ(to_bf16(0.0f).bits, 0x0000);
  EXPECT_EQ(to_bf16(-0.0f).bits, 0x8000);
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::infinity()).bits, 0x7f80);
  EXPECT_EQ(to_bf16(-std::numeric_limits<float>::infinity()).bits, 0xff80);
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::denorm_min()).bits, 0x0000);
}

// A NaN whose payload is all in the lower half would round to infinity; one of all ones would round over to zero.
TEST(Bf16, NanStaysNan) {
  for (const std::uint32_t bits : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu, 0x7f80ffffu})
    EXPECT_TRUE(std::isnan(to_float(to_bf16(from_bits(bits))))) << std::hex << bits;
  EXPECT_TRUE(std::signbit(to_float(to_bf16(from_bits(0xff800001u)))));
}

}  // namespace
}  // namespace upcycle
