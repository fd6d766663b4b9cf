#include "core/rng.h"

#include <cmath>
#include <set>

namespace upcycle {
namespace {

using Block = std::array<std::uint32_t, 4>;

// The known answers that Random123 publishes for philox4x32-10.
TEST(Rng, PhiloxKnownAnswers) {
  EXPECT_EQ(rng::philox({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const std::uint32_t ones = 0xffffffff;
  EXPECT_EQ(rng::philox({ones, ones, ones, ones}, {ones, ones}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(rng::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// Checkpoints and layouts rely on where seed, key and element go: element low, high, key low, high; seed low, high.
TEST(Rng, BitsArePhiloxOfElementKeyAndSeed) {
  EXPECT_EQ(rng::bits(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, KeyIsFnv1a) {
  EXPECT_EQ(rng::key_of(""), 0xcbf29ce484222325u);
  EXPECT_EQ(rng::key_of("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(rng::key_of("foobar"), 0x85944171f73967e8u);
}

TEST(Rng, StreamsDiffer) {
  std::set<double> seen;
  for (std::uint64_t seed = 0; seed < 3; ++seed)
    for (const char* name : {"a", "b", "model.embed_tokens.weight"})
      for (std::uint64_t element : {0ull, 1ull, 1ull << 32, 1ull << 40})
        seen.insert(rng::uniform(seed, rng::key_of(name), element));
  EXPECT_EQ(seen.size(), 36u);
}

struct Moments {
  double mean = 0, variance = 0, third = 0, fourth = 0, neighbours = 0;
};

template <class Draw>
Moments moments(std::uint64_t n, const Draw& draw) {
  Moments m;
  for (std::uint64_t i = 0; i < n; ++i) m.mean += draw(i) / static_cast<double>(n);
  for (std::uint64_t i = 0; i < n; ++i) {
    const double d = draw(i) - m.mean;
    m.variance += d * d / static_cast<double>(n);
    m.third += d * d * d / static_cast<double>(n);
    m.fourth += d * d * d * d / static_cast<double>(n);
    m.neighbours += d * (draw(i + 1) - m.mean) / static_cast<double>(n);
  }
  return m;
}

constexpr std::uint64_t kDraws = 100000;  // bounds below are about five standard errors

TEST(Rng, UniformMoments) {
  const Moments m = moments(kDraws, [](std::uint64_t i) { return rng::uniform(1, 2, i); });
  EXPECT_NEAR(m.mean, 0.5, 0.005);
  EXPECT_NEAR(m.variance, 1.0 / 12, 0.0012);
  EXPECT_NEAR(m.third, 0, 0.0006);
  EXPECT_NEAR(m.neighbours, 0, 0.0013);
  for (std::uint64_t i = 0; i < kDraws; ++i) {
    const double u = rng::uniform(1, 2, i);
    ASSERT_TRUE(u > 0 && u < 1);
  }
}

TEST(Rng, NormalMoments) {
  const Moments m = moments(kDraws, [](std::uint64_t i) { return rng::normal(1, 2, i); });
  EXPECT_NEAR(m.mean, 0, 0.016);
  EXPECT_NEAR(m.variance, 1, 0.023);
  EXPECT_NEAR(m.third, 0, 0.062);
  EXPECT_NEAR(m.fourth, 3, 0.16);
  EXPECT_NEAR(m.neighbours, 0, 0.016);
}

TEST(Rng, NormalTails) {
  std::int64_t past_two = 0, past_four = 0;
  for (std::uint64_t i = 0; i < kDraws; ++i) {
    past_two += std::abs(rng::normal(3, 4, i)) > 2;
    past_four += std::abs(rng::normal(3, 4, i)) > 4;
  }
  EXPECT_NEAR(static_cast<double>(past_two) / kDraws, 0.0455, 0.0033);
  EXPECT_LE(past_four, 25);  // 6.3 expected
}

TEST(Rng, BelowIsUniformAndInRange) {
  for (const std::uint64_t n : {1ull, 2ull, 7ull}) {
    std::vector<double> counts(n);
    for (std::uint64_t i = 0; i < kDraws; ++i) {
      const std::uint64_t x = rng::below(n, 5, 6, i);
      ASSERT_LT(x, n);
      counts[x] += 1;
    }
    const double expected = static_cast<double>(kDraws) / static_cast<double>(n);
    for (const double c : counts) EXPECT_NEAR(c, expected, 5 * std::sqrt(expected));
  }
  EXPECT_GT(rng::below(~0ull, 5, 6, 0), 1ull << 32);  // the upper half of the bits is used too
}

}  // namespace
}  // namespace upcycle
