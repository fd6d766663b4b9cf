#include "data/sampler.h"
#include "tests/core/input_error.h"

#include <fmt/core.h>

#include <cmath>
#include <set>

#include "data/token_set_writer.h"
#include "tests/data/temporary_folder.h"
#include "tests/data/token_set_documents.h"

namespace upcycle {
namespace {

// Token t of set number `offset` is offset + t: every token shows where it is from.
std::string write_set(const TemporaryFolder& folder, const std::string& name, std::int32_t tokens,
                      std::int32_t offset = 0) {
  TokenSetWriter writer(folder.file(name), 100000);
  for (std::int32_t t = 0; t < tokens; t += 7) {  // documents of seven tokens: sequences cross them
    std::vector<std::int32_t> ids;
    for (std::int32_t i = t; i < std::min(tokens, t + 7); ++i) ids.push_back(offset + i);
    add_document(writer, ids);
  }
  writer.finish();
  return folder.file(name);
}

constexpr std::int64_t vocab = 100000;

TEST(Sampler, EachEpochHasEverySequenceOnce) {
  const TemporaryFolder folder;
  const std::int64_t S = 8;
  // 41 tokens: 5 sequences, the last one needs the very last token; 40: its target is missing, so 4.
  for (const auto& [tokens, sequences] : {std::pair{9, 1}, {16, 1}, {17, 2}, {40, 4}, {41, 5}, {48, 5}, {1000, 124}}) {
    Sampler sampler({{write_set(folder, "t", tokens), 1}}, vocab, S, 1);
    ASSERT_EQ(sampler.sequences(0), sequences) << tokens;
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
      std::set<std::int64_t> seen;
      for (std::int64_t g = epoch * sequences; g < (epoch + 1) * sequences; ++g) {
        const auto sample = sampler.sample(g);
        EXPECT_EQ(sample.epoch, epoch);
        EXPECT_EQ(sample.set, 0);
        seen.insert(sample.sequence);
        std::vector<std::int32_t> inputs(S), targets(S);
        sampler.fill(g, inputs.data(), targets.data());
        for (std::int64_t i = 0; i < S; ++i) {
          EXPECT_EQ(inputs[static_cast<std::size_t>(i)], sample.sequence * S + i);
          EXPECT_EQ(targets[static_cast<std::size_t>(i)], sample.sequence * S + i + 1);
        }
      }
      EXPECT_EQ(static_cast<std::int64_t>(seen.size()), sequences);
      EXPECT_EQ(*seen.begin(), 0);
      EXPECT_EQ(*seen.rbegin(), sequences - 1);
    }
  }
}

TEST(Sampler, EpochsBegunAreThoseOfTheSamplesBefore) {
  const TemporaryFolder folder;
  const std::string a = write_set(folder, "a", 41), b = write_set(folder, "b", 100, 1000);
  for (const std::vector<WeightedPath>& sets : {std::vector<WeightedPath>{{a, 1}}, {{a, 1}, {b, 3}}}) {
    Sampler sampler(sets, vocab, 8, 1), asked(sets, vocab, 8, 1);
    std::vector<std::int64_t> begun(sets.size(), 0);
    for (std::int64_t g = 0; g < 60; ++g) {
      EXPECT_EQ(asked.epochs_begun(g), begun) << g;
      const Sampler::Sample s = sampler.sample(g);
      begun[static_cast<std::size_t>(s.set)] = s.epoch + 1;
      EXPECT_EQ(asked.sample(g).sequence, s.sequence) << "asking moves nothing";
    }
    EXPECT_GE(begun[0], 3);
  }
}

std::vector<std::int64_t> order(Sampler& sampler, std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> out;
  for (std::int64_t g = begin; g < end; ++g) {
    const auto s = sampler.sample(g);
    out.push_back(s.set * 1000000 + s.sequence);
  }
  return out;
}

TEST(Sampler, ShuffleDependsOnSeedSetAndEpochOnly) {
  const TemporaryFolder folder;
  const std::string path = write_set(folder, "t", 1601);  // 200 sequences
  Sampler first({{path, 1}}, vocab, 8, 1), again({{path, 1}}, vocab, 8, 1), other({{path, 1}}, vocab, 8, 2);
  EXPECT_EQ(order(first, 0, 500), order(again, 0, 500));
  EXPECT_NE(order(first, 0, 200), order(other, 0, 200));
  EXPECT_NE(order(first, 0, 200), order(first, 200, 400));
  std::vector<std::int64_t> in_place(200);
  for (std::size_t i = 0; i < 200; ++i) in_place[i] = static_cast<std::int64_t>(i);
  EXPECT_NE(order(first, 0, 200), in_place);
  Sampler twice({{path, 1}, {path, 1}}, vocab, 8, 1);
  std::vector<std::int64_t> of_set[2];
  for (std::int64_t g = 0; g < 400; ++g) of_set[twice.sample(g).set].push_back(twice.sample(g).sequence);
  EXPECT_EQ(of_set[0], order(first, 0, 200));
  EXPECT_NE(of_set[0], of_set[1]);
}

TEST(Sampler, ResumesFromTheCountAlone) {
  const TemporaryFolder folder;
  const std::vector<WeightedPath> sets = {{write_set(folder, "a", 300, 0), 3},
                                          {write_set(folder, "b", 900, 1000), 1.7},
                                          {write_set(folder, "c", 41, 5000), 0.01}};
  Sampler whole(sets, vocab, 8, 5);
  const auto expected = order(whole, 0, 1000);
  for (const std::int64_t consumed : {0, 1, 37, 512, 999}) {
    Sampler resumed(sets, vocab, 8, 5);
    EXPECT_EQ(order(resumed, consumed, 1000), (std::vector<std::int64_t>(expected.begin() + consumed, expected.end())));
  }
  for (const std::int64_t g : {500, 3, 999, 998, 998, 0})  // in any order
    EXPECT_EQ(order(whole, g, g + 1).front(), expected[static_cast<std::size_t>(g)]);
}

TEST(Sampler, ResumesFarOut) {
  const TemporaryFolder folder;
  const std::vector<WeightedPath> sets = {{write_set(folder, "a", 300), 0.3}, {write_set(folder, "b", 900), 0.7}};
  Sampler walked(sets, vocab, 8, 5), resumed(sets, vocab, 8, 5);
  const std::int64_t far = (std::int64_t{3} << 20) - 50;  // across a mark of the blend
  std::int64_t checksum = 0;
  for (std::int64_t g = 0; g < far; g += 1001) checksum += walked.sample(g).sequence;
  const auto expected = order(walked, far, far + 100);
  EXPECT_EQ(order(resumed, far, far + 100), expected);
  order(walked, 0, 10);
  EXPECT_EQ(order(walked, far, far + 100), expected);
  std::int64_t again = 0;
  for (std::int64_t g = 0; g < far; g += 1001) again += resumed.sample(g).sequence;
  EXPECT_EQ(again, checksum);
}

TEST(Sampler, BlendKeepsItsProportionsAtEveryMoment) {
  const TemporaryFolder folder;
  const std::vector<double> weights = {5, 2.5, 0.5, 2};
  std::vector<WeightedPath> sets;
  for (const double weight : weights) sets.push_back({write_set(folder, fmt::format("s{}", sets.size()), 100), weight});
  Sampler sampler(sets, vocab, 8, 1);
  std::vector<double> drawn(4);
  for (std::int64_t g = 0; g < 10000; ++g) {
    ++drawn[static_cast<std::size_t>(sampler.sample(g).set)];
    for (std::size_t s = 0; s < 4; ++s)
      ASSERT_LT(std::abs(drawn[s] - weights[s] / 10 * static_cast<double>(g + 1)), 2) << g;
  }
  EXPECT_EQ(drawn, (std::vector<double>{5000, 2500, 500, 2000}));

  Sampler even({{sets[0].path, 1}, {sets[1].path, 1}}, vocab, 8, 1);
  for (std::int64_t g = 0; g < 10; ++g) EXPECT_EQ(even.sample(g).set, g % 2);
}

TEST(Sampler, EpochsOfASmallSetPassFaster) {
  const TemporaryFolder folder;
  Sampler sampler({{write_set(folder, "a", 81), 1}, {write_set(folder, "b", 17), 1}}, vocab, 8, 1);
  std::vector<std::int64_t> epoch(2);
  for (std::int64_t g = 0; g < 40; ++g)
    epoch[static_cast<std::size_t>(sampler.sample(g).set)] = sampler.sample(g).epoch;
  EXPECT_EQ(epoch, (std::vector<std::int64_t>{1, 9}));
}

TEST(SamplerErrors, SayWhatIsWrong) {
  const TemporaryFolder folder;
  const std::string path = write_set(folder, "t", 8);
  EXPECT_TRUE(contains(input_error_of([&] { Sampler({{path, 1}}, vocab, 8, 1); }), "t.bin: has 8 tokens"));
  EXPECT_TRUE(contains(input_error_of([&] { Sampler({}, vocab, 4, 1); }), "data.train"));
  for (const double weight : {0.0, -1.0, std::nan(""), HUGE_VAL})
    EXPECT_TRUE(contains(input_error_of([&] {
                           Sampler({{path, 1}, {path, weight}}, vocab, 4, 1);
                         }),
                         "data.train[1].weight"));
  EXPECT_TRUE(contains(input_error_of([&] { Sampler({{folder.file("none"), 1}}, vocab, 4, 1); }), "none.idx"));
  Sampler small_vocabulary({{path, 1}}, 5, 7, 1);
  std::int32_t ids[14];
  EXPECT_TRUE(contains(input_error_of([&] { small_vocabulary.fill(0, ids, ids + 7); }), "token 5 is id 5"));
}

TEST(Permutation, IsOneAndLooksRandom) {
  for (const std::uint64_t size : {1, 2, 3, 4, 5, 16, 17, 1000, 4097}) {
    const Permutation permutation(size, 3, 4);
    std::set<std::uint64_t> seen;
    for (std::uint64_t i = 0; i < size; ++i) seen.insert(permutation(i));
    EXPECT_EQ(seen.size(), size);
    EXPECT_EQ(*seen.rbegin(), size - 1);
  }
  // Where element 0 lands, over 6,000 keys: chi squared over 6 places stays below its 99.99 % point, 25.7.
  std::vector<double> landed(6);
  for (std::uint64_t key = 0; key < 6000; ++key) ++landed[Permutation(6, 1, key)(0)];
  double chi_squared = 0;
  for (const double n : landed) chi_squared += (n - 1000) * (n - 1000) / 1000;
  EXPECT_LT(chi_squared, 25.7);
  // Neighbours do not stay neighbours: about 2 of 4,096 pairs in a random order.
  const Permutation permutation(4097, 3, 4);
  int neighbours = 0;
  for (std::uint64_t i = 0; i < 4096; ++i) {
    const auto a = permutation(i), b = permutation(i + 1);
    neighbours += (a > b ? a - b : b - a) == 1;
  }
  EXPECT_LT(neighbours, 12);
  const std::uint64_t big = (std::uint64_t{1} << 40) + 12345;
  EXPECT_LT(Permutation(big, 1, 1)(big - 1), big);
}

TEST(EvalWindows, PredictsEveryTokenButTheFirstOnce) {
  const TemporaryFolder folder;
  const std::int64_t S = 8;
  for (const std::int32_t tokens : {2, 8, 9, 10, 16, 17, 18, 100}) {
    const TokenSet set = TokenSet::open(write_set(folder, "t", tokens, 50), vocab);
    const EvalWindows windows(set, S);
    EXPECT_EQ(windows.count(), (tokens - 1 + S - 1) / S);
    EXPECT_EQ(windows.predictions(), tokens - 1);
    std::int32_t next = 51;
    for (std::int64_t w = 0; w < windows.count(); ++w) {
      std::vector<std::int32_t> inputs(S, -7), targets(S, -7);
      const std::int64_t valid = windows.fill(w, inputs.data(), targets.data());
      EXPECT_TRUE(valid == S || w == windows.count() - 1);
      EXPECT_GT(valid, 0);
      for (std::size_t i = 0; i < static_cast<std::size_t>(S); ++i) {
        if (static_cast<std::int64_t>(i) < valid) {
          EXPECT_EQ(targets[i], next);
          EXPECT_EQ(inputs[i], next - 1);
          ++next;
        } else {
          EXPECT_EQ(targets[i], -1);
          EXPECT_EQ(inputs[i], 0);
        }
      }
    }
    EXPECT_EQ(next, 50 + tokens);
  }
  const TokenSet one = TokenSet::open(write_set(folder, "t", 1), vocab);
  EXPECT_TRUE(contains(input_error_of([&] { EvalWindows(one, S); }), "has 1 tokens"));
}

}  // namespace
}  // namespace upcycle
