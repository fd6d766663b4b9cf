#include "core/split_float.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "core/dtype.h"
#include "core/stochastic_rounding.h"

namespace upcycle {
namespace {

bool survives(std::uint32_t bits) {
  const std::uint16_t rounded = to_bf16(std::bit_cast<float>(bits)).bits;
  return join_halves(rounded, low_half(bits), raised_tie(bits)) == bits;
}

// All numbers of some high halves (zeros, denormals, ordinary ones even and odd, the last before infinity, of both
// signs), and all high halves with the low ones where rounding turns.
TEST(SplitFloat, RoundingLowHalfAndTieAreTheNumber) {
  for (const std::uint32_t sign : {0u, 0x8000u})
    for (const std::uint32_t high : {0u, 1u, 2u, 0x7fu, 0x80u, 0x3f7fu, 0x3f80u, 0x3f81u, 0x7f7eu, 0x7f7fu})
      for (std::uint32_t low = 0; low <= 0xffffu; ++low)
        ASSERT_TRUE(survives((sign | high) << 16 | low)) << (sign | high) << " " << low;
  for (std::uint32_t high = 0; high <= 0xffffu; ++high) {
    if ((high & 0x7f80u) == 0x7f80u) continue;  // NaN, and infinity below
    for (const std::uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      ASSERT_TRUE(survives(high << 16 | low)) << high << " " << low;
  }
  EXPECT_TRUE(survives(0x7f800000u) && survives(0xff800000u));
}

// Why 16 bits are not enough: 65,537 numbers have this rounding, two of them with the same low half.
TEST(SplitFloat, BothTiesOfAnEvenNumberRoundToIt) {
  int found = 0;
  for (std::uint32_t bits = 0x3f7f0000u; bits <= 0x3f81ffffu; ++bits)
    found += to_bf16(std::bit_cast<float>(bits)).bits == 0x3f80u ? 1 : 0;
  EXPECT_EQ(found, 65537);
  EXPECT_TRUE(raised_tie(0x3f7f8000u));
  EXPECT_FALSE(raised_tie(0x3f808000u));
}

// Of the 65,536 draws exactly as many round up as the mean needs.
TEST(StochasticRounding, IsUnbiased) {
  for (const std::uint32_t sign : {0u, 0x80000000u})
    for (const std::uint32_t low : {0u, 1u, 0x1234u, 0x8000u, 0xffffu}) {
      const std::uint32_t bits = sign | 0x3f810000u | low;
      std::uint32_t up = 0;
      for (std::uint32_t draw = 0; draw <= 0xffffu; ++draw) {
        const std::uint16_t got = round_by_draw(bits, draw);
        ASSERT_TRUE(got == bits >> 16 || got == (bits >> 16) + 1);
        up += got != bits >> 16 ? 1 : 0;
      }
      EXPECT_EQ(up, low);
    }
}

TEST(StochasticRounding, SpecialNumbers) {
  for (const std::uint32_t draw : {0u, 0x7fffu, 0xffffu}) {
    EXPECT_EQ(round_by_draw(0u, draw), 0u);
    EXPECT_EQ(round_by_draw(0x7f800000u, draw), 0x7f80u);
    for (const std::uint32_t nan : {0x7f800001u, 0x7fffffffu, 0xffffffffu}) {
      const std::uint16_t got = round_by_draw(nan, draw);
      EXPECT_TRUE((got & 0x7f80u) == 0x7f80u && (got & 0x7fu) != 0u && got >> 15 == nan >> 31);
    }
  }
}

// Elements' draws are uniform, and no two places of a block, neighbours, or streams go together.
TEST(StochasticRounding, DrawsAreUniformAndApart) {
  const auto draw = [](std::uint64_t key, std::uint64_t element) {
    std::uint32_t words[4];
    draw_block(words, {7, key}, element / 8);
    return static_cast<double>(draw_of(words, element)) / 65536 - 0.5;
  };
  constexpr int n = 1 << 16;
  double sum = 0, squares = 0, neighbours = 0, blocks = 0, streams = 0;
  for (std::uint64_t e = 0; e < n; ++e) {
    const double x = draw(1, e);
    sum += x;
    squares += x * x;
    neighbours += x * draw(1, e + 1);
    blocks += x * draw(1, e + 8);
    streams += x * draw(2, e);
  }
  const double deviation = 1.0 / 12 / 256;  // of the mean of n products
  EXPECT_NEAR(sum / n, 0, 5 * std::sqrt(1.0 / 12) / 256);
  EXPECT_NEAR(squares / n, 1.0 / 12, 0.002);
  EXPECT_NEAR(neighbours / n, 0, 5 * deviation);
  EXPECT_NEAR(blocks / n, 0, 5 * deviation);
  EXPECT_NEAR(streams / n, 0, 5 * deviation);
}

}  // namespace
}  // namespace upcycle
