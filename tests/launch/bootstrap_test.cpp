#include "launch/study/bootstrap.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"

namespace upcycle {
namespace {

using Differences = std::vector<std::vector<double>>;

// Of a cell that stands alone.
PairedDifference alone(const Differences& differences, const std::vector<double>& tokens) {
  return paired_difference(differences, tokens, seed_spread({seed_differences(differences, tokens)}));
}

double noise(std::string_view key, std::uint64_t i) { return rng::normal(7, rng::key_of(key), i); }

// Documents of 50 to 450 tokens that differ by far more than the arms do.
struct Text {
  std::vector<double> tokens, loss;  // sums
  explicit Text(std::size_t n, std::uint64_t from = 0) {
    for (std::size_t d = from; d < from + n; ++d) {
      tokens.push_back(50 + static_cast<double>(rng::below(400, 7, rng::key_of("tokens"), d)));
      loss.push_back(tokens.back() * (3 + 0.5 * noise("text", d)));
    }
  }
};

TEST(PairedDifference, ArmsThatAreTheSameDoNotDiffer) {
  const Text text(30);
  const std::vector<double> none(30, 0.0);
  for (const std::size_t seeds : {1u, 2u, 3u}) {
    const PairedDifference d = alone(Differences(seeds, none), text.tokens);
    EXPECT_EQ(d.difference, 0);
    EXPECT_EQ(d.standard_error, 0);
    EXPECT_EQ(d.low, 0);
    EXPECT_EQ(d.high, 0);
    EXPECT_EQ(d.per_seed, std::vector<double>(seeds, 0.0));
    EXPECT_EQ(says(d, true), "no difference");
  }
}

TEST(PairedDifference, IsARatioOfSumsByHand) {
  const PairedDifference d = alone({{1, 3}, {2, 6}}, {10, 30});
  EXPECT_EQ(d.per_seed, (std::vector<double>{0.1, 0.2}));
  EXPECT_DOUBLE_EQ(d.difference, 0.15);
  // Every draw of these documents has the same ratio: what is left is the spread of the seeds, s = 0.0707, over sqrt 2.
  EXPECT_NEAR(d.standard_error, 0.05, 1e-12);
  // Student's t with one degree of freedom leaves out 2.5 % beyond 12.7.
  EXPECT_NEAR((d.high - d.low) / 2, 12.7 * 0.05, 0.25 * 12.7 * 0.05);
}

TEST(PairedDifference, OfOneSeedHasTheStandardErrorOfDocuments) {
  // Equal lengths: the ratio of sums is a mean, whose standard error is s / sqrt(n).
  std::vector<double> x;
  double sum = 0, squares = 0;
  for (std::uint64_t i = 0; i < 100; ++i) {
    x.push_back(noise("mean", i));
    sum += x.back();
    squares += x.back() * x.back();
  }
  const double expected = std::sqrt((squares - sum * sum / 100) / 99 / 100);
  const PairedDifference d = alone({x}, std::vector<double>(100, 1.0));
  EXPECT_NEAR(d.standard_error, expected, 0.06 * expected);
  EXPECT_NEAR(d.high - d.low, 2 * 1.96 * expected, 0.1 * 2 * 1.96 * expected);
}

TEST(PairedDifference, AShiftOfAllDocumentsIsFoundBecauseTheyArePaired) {
  const Text text(60);
  std::vector<double> paired, shuffled;
  for (std::size_t d = 0; d < 60; ++d) {
    const double arm = text.loss[d] + text.tokens[d] * (-0.02 + 0.01 * noise("arm", d));
    paired.push_back(arm - text.loss[d]);
    shuffled.push_back(arm / text.tokens[d] * text.tokens[(d + 1) % 60] - text.loss[(d + 1) % 60]);
  }
  const PairedDifference found = alone({paired}, text.tokens);
  EXPECT_NEAR(found.difference, -0.02, 0.005);
  EXPECT_EQ(says(found, true), "better");
  EXPECT_EQ(says(found, false), "worse");
  EXPECT_LT(found.high, 0);
  const PairedDifference lost = alone({shuffled}, text.tokens);
  EXPECT_GT(lost.standard_error, 20 * found.standard_error);
  EXPECT_EQ(says(lost, true), "no difference");
}

TEST(PairedDifference, TheIntervalHoldsTheTruthInAbout95Of100) {
  constexpr std::size_t kTrials = 200, kDocuments = 40;
  constexpr double kTruth = 0.03;
  for (const std::size_t seeds : {1u, 2u, 3u})
    for (const double of_seeds : {0.0, 0.02}) {
      if (seeds == 1 && of_seeds > 0) continue;  // one seed does not show the spread
      std::size_t held = 0;
      for (std::size_t trial = 0; trial < kTrials; ++trial) {
        const Text text(kDocuments, trial * kDocuments);
        std::vector<std::vector<double>> x(seeds);
        for (std::size_t s = 0; s < seeds; ++s)
          for (std::size_t d = 0; d < kDocuments; ++d)
            x[s].push_back(text.tokens[d] * (kTruth + of_seeds * noise("seed", trial * 3 + s) +
                                             0.05 * noise("document", trial * kDocuments + d)));
        const PairedDifference d = alone(x, text.tokens);
        held += d.low <= kTruth && kTruth <= d.high;
      }
      const double share = static_cast<double>(held) / kTrials;
      EXPECT_GT(share, 0.915) << seeds << " seeds, " << of_seeds;
      // The sum of two spreads, each with its own degrees of freedom, errs on the wide side.
      EXPECT_LT(share, of_seeds > 0 ? 0.999 : 0.985) << seeds << " seeds, " << of_seeds;
    }
}

TEST(PairedDifference, TheSpreadOverSeedsIsPooledOverCells) {
  const SeedSpread s = seed_spread({{0.1, 0.3}, {0.5}, {1.0, 1.1, 1.2}, {}, {std::nan(""), 1}});
  EXPECT_EQ(s.degrees, 3u);
  EXPECT_NEAR(s.variance, (0.02 * 1 + 0.01 * 2) / 3, 1e-12);
  EXPECT_EQ(seed_spread({{0.5}}).degrees, 0u);
  // A cell with one seed has the others' spread, and many degrees of freedom make an interval of 1.96 standard errors.
  const PairedDifference d = paired_difference({{1, 1}}, {10, 10}, {0.04, 60});
  EXPECT_NEAR(d.standard_error, 0.2, 1e-12);
  EXPECT_NEAR(d.high - d.low, 2 * 2.0 * 0.2, 0.08);
}

TEST(PairedDifference, OfOneDocumentHasNoStandardErrorAndOfNoneNothing) {
  const PairedDifference one = alone({{5}}, {10});
  EXPECT_DOUBLE_EQ(one.difference, 0.5);
  EXPECT_TRUE(std::isnan(one.standard_error) && std::isnan(one.low));
  EXPECT_EQ(says(one, true), "not known");
  EXPECT_TRUE(std::isnan(alone({}, {10}).difference));
  EXPECT_TRUE(std::isnan(alone({{}}, {}).difference));
  EXPECT_EQ(says(alone({{std::nan(""), 1}}, {1, 1}), true), "not known");
}

}  // namespace
}  // namespace upcycle
