#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
const double kNaN = std::nan("");

struct Draw {
  double temperature = 1;
  int top_k = 0;
  double top_p = 1, uniform = 0.5;
};

// What a row may draw, in fp64: the probability of each token of the vocabulary.
std::vector<double> probabilities(const std::vector<double>& logits, const Draw& d) {
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  if (d.top_k > 0 && static_cast<std::size_t>(d.top_k) < order.size()) order.resize(static_cast<std::size_t>(d.top_k));
  std::vector<double> p(logits.size());
  const auto normalise = [&] {
    double sum = 0;
    for (const std::size_t i : order) sum += p[i];
    for (double& x : p) x /= sum;
  };
  for (const std::size_t i : order) p[i] = std::exp((logits[i] - logits[order[0]]) / d.temperature);
  normalise();
  double sum = 0;
  std::size_t kept = 0;
  while (kept < order.size() && sum < d.top_p - 1e-7) sum += p[order[kept++]];
  for (std::size_t i = kept; i < order.size(); ++i) p[order[i]] = 0;
  order.resize(kept);
  normalise();
  return p;
}

struct SampleTest : OpTest {
  // The token of each draw from the same logits, which lie in parts of V columns.
  std::vector<int> sample(const std::vector<double>& logits, const std::vector<Draw>& draws, std::int64_t parts = 1,
                          std::int64_t padding = 0) {
    const auto vocabulary = static_cast<std::int64_t>(logits.size()), rows = static_cast<std::int64_t>(draws.size());
    const std::int64_t V = (vocabulary + padding + parts - 1) / parts;
    const HostTensor x(DType::F32, {parts, rows, V}), temperature(DType::F32, {rows}), top_k(DType::I32, {rows}),
        top_p(DType::F32, {rows}), uniform(DType::F32, {rows}), tokens(DType::I32, {rows});
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t i = 0; i < parts * V; ++i)  // padding has the highest logits
        set(x, (i / V * rows + r) * V + i % V, i < vocabulary ? logits[static_cast<std::size_t>(i)] : 100);
      const Draw& d = draws[static_cast<std::size_t>(r)];
      set(temperature, r, d.temperature);
      set(top_k, r, d.top_k);
      set(top_p, r, d.top_p);
      set(uniform, r, d.uniform);
    }
    OpLimits limits;
    limits.vocabulary = vocabulary;
    limits.sequences = rows;
    testing::Bytes scratch(ops->workspace_bytes(limits), std::byte{0x5a});
    ops->sample_tokens(*stream, {scratch.data(), scratch.size()}, tokens, x, vocabulary,
                       {temperature, top_k, top_p, uniform});
    std::vector<int> drawn;
    for (std::int64_t r = 0; r < rows; ++r) drawn.push_back(static_cast<int>(tokens.get(r)));
    return drawn;
  }
  int sample(const std::vector<double>& logits, const Draw& draw) { return sample(logits, std::vector{draw})[0]; }
};

// As a tensor stores them.
std::vector<double> random_logits(std::size_t n, double scale, std::string_view name = "logits") {
  std::vector<double> logits(n);
  for (std::size_t i = 0; i < n; ++i)
    logits[i] = static_cast<double>(static_cast<float>(scale * rng::normal(7, rng::key_of(name), i)));
  return logits;
}

TEST_F(SampleTest, GreedyTakesTheHighestAndAtTiesTheLowerIndex) {
  const Draw greedy{0};
  EXPECT_EQ(sample({1, 3, 2, 3}, greedy), 1);
  EXPECT_EQ(sample({5}, greedy), 0);
  EXPECT_EQ(sample({-0.0, 0.0}, greedy), 0);
  EXPECT_EQ(sample({-kInfinity, -2, kNaN, -1}, greedy), 3);
  EXPECT_EQ(sample({kNaN, -kInfinity}, greedy), 1);
  EXPECT_EQ(sample({kNaN, kNaN}, greedy), 0);
  EXPECT_EQ(sample({0, kInfinity, kInfinity}, greedy), 1);
  std::vector<double> long_row = random_logits(5000, 1);
  for (const std::size_t at : {0, 1, 1023, 1024, 2047, 4999}) {
    long_row[at] += 100;
    EXPECT_EQ(sample(long_row, greedy), static_cast<int>(at));
    long_row[at] -= 100;
  }
}

TEST_F(SampleTest, ARowWithoutAFiniteHighestLogitIsGreedy) {
  EXPECT_EQ(sample({kNaN, -kInfinity}, Draw{}), 1);
  EXPECT_EQ(sample({kNaN, kNaN}, Draw{}), 0);
  EXPECT_EQ(sample({0, kInfinity, kInfinity}, Draw{}), 1);
}

// A grid of draws of each row: how often a token comes is its probability to one part of the grid.
TEST_F(SampleTest, DrawsInProportionToTheProbabilities) {
  const std::size_t grid = 128;
  const std::vector<double> few{0.5, -1, 2, 2, -kInfinity, 1, kNaN, 0.25, 2};
  std::vector<double> few_finite = few;
  few_finite[6] = -kInfinity;
  for (const Draw& shape : {Draw{1}, Draw{0.25}, Draw{3}, Draw{1, 3}, Draw{1, 2}, Draw{1, 1}, Draw{1, 0, 0.5},
                            Draw{1, 0, 1e-6}, Draw{0.7, 4, 0.9}, Draw{2, 100, 0.99}, Draw{1, 9, 0.3}, Draw{1, 8}}) {
    SCOPED_TRACE(fmt::format("temperature {} k {} p {}", shape.temperature, shape.top_k, shape.top_p));
    std::vector<Draw> draws(grid, shape);
    for (std::size_t i = 0; i < grid; ++i) draws[i].uniform = static_cast<double>(i) / static_cast<double>(grid);
    const std::vector<int> drawn = sample(few, draws);
    const std::vector<double> expected = probabilities(few_finite, shape);
    EXPECT_TRUE(std::is_sorted(drawn.begin(), drawn.end()));  // in the order of indices
    for (std::size_t token = 0; token < few.size(); ++token) {
      const auto times = std::count(drawn.begin(), drawn.end(), static_cast<int>(token));
      EXPECT_NEAR(static_cast<double>(times), expected[token] * static_cast<double>(grid), 1.001) << token;
    }
  }
}

TEST_F(SampleTest, LargeVocabulariesInPartsGiveTheExactToken) {
  for (const std::size_t vocabulary : {1000, 5003}) {
    const std::vector<double> logits = random_logits(vocabulary, 2);
    for (const Draw& shape :
         {Draw{1}, Draw{0.8, 0, 0.95}, Draw{1, 40}, Draw{1.5, 300, 0.7}, Draw{1, 1}, Draw{1, 0, 0.01}}) {
      SCOPED_TRACE(fmt::format("{} temperature {} k {} p {}", vocabulary, shape.temperature, shape.top_k, shape.top_p));
      const std::vector<double> p = probabilities(logits, shape);
      std::vector<Draw> draws(12, shape);
      for (std::size_t i = 0; i < draws.size(); ++i) draws[i].uniform = rng::uniform(3, 1, i) * (1 - 1e-6);
      for (const std::int64_t parts : {1, 3}) {
        const std::vector<int> drawn = sample(logits, draws, parts, parts * 2);
        for (std::size_t i = 0; i < draws.size(); ++i) {
          const auto token = static_cast<std::size_t>(drawn[i]);
          const double to = std::accumulate(p.begin(), p.begin() + drawn[i] + 1, 0.0), u = draws[i].uniform;
          EXPECT_GT(p[token], 0);
          EXPECT_GE(to, u - 2e-6);  // of fp32 logits and exponentials
          EXPECT_LE(to - p[token], u + 2e-6);
        }
      }
    }
  }
}

// Logits that differ in one part of their bits only, and equal ones.
TEST_F(SampleTest, TheLastKeptTokenIsExact) {
  std::vector<double> close(300);
  for (std::size_t i = 0; i < close.size(); ++i) close[i] = 1 + static_cast<double>(i * 7 % 300) * 0x1p-23;
  for (const int k : {1, 2, 17, 150, 299}) {
    const int last = sample(close, {1, k, 1, 1 - 0x1p-24}), first = sample(close, {1, k, 1, 0});
    std::vector<int> kept;
    for (int i = 0; i < 300; ++i)
      if (i * 7 % 300 >= 300 - k) kept.push_back(i);
    EXPECT_EQ(first, kept.front());
    EXPECT_EQ(last, kept.back());
  }
  const std::vector<double> equal(3000, 0.5);
  for (const int k : {1, 31, 32, 33, 2999}) EXPECT_EQ(sample(equal, {1, k, 1, 1 - 0x1p-24}), k - 1);
  EXPECT_EQ(sample(equal, {1, 0, 0.25, 1 - 0x1p-24}), 749);
  EXPECT_EQ(sample(equal, {1, 1000, 0.25, 1 - 0x1p-24}), 249);
}

TEST_F(SampleTest, NeitherOtherRowsNorThreadsShow) {
  const std::vector<double> logits = random_logits(8000, 3);
  std::vector<Draw> draws;
  for (std::size_t i = 0; i < 9; ++i)
    draws.push_back({0.5 + 0.25 * static_cast<double>(i), static_cast<int>(i % 3) * 50, i % 2 == 0 ? 1 : 0.9,
                     rng::uniform(3, 2, i) * 0.999});
  const std::vector<int> together = sample(logits, draws);
  for (const int threads : {1, 3}) {
    const ThreadCount count(threads);
    EXPECT_EQ(sample(logits, draws), together);
    for (std::size_t i = 0; i < draws.size(); ++i) EXPECT_EQ(sample(logits, draws[i]), together[i]);
  }
}

TEST_F(SampleTest, RefusesWhatDoesNotFit) {
  const HostTensor logits(DType::F32, {2, 3, 8}), flat(DType::F32, {3, 16}), tokens(DType::I32, {3}),
      four(DType::I32, {4}), floats(DType::F32, {3}), ints(DType::I32, {3});
  for (std::int64_t r = 0; r < 3; ++r) set(floats, r, 0.5);
  OpLimits limits;
  limits.vocabulary = 16;
  limits.sequences = 3;
  testing::Bytes scratch(ops->workspace_bytes(limits));
  const Workspace w{scratch.data(), scratch.size()};
  const SamplingRows rows{floats, ints, floats, floats};
  EXPECT_NO_THROW(ops->sample_tokens(*stream, w, tokens, logits, 15, rows));
  EXPECT_THROW(ops->sample_tokens(*stream, w, tokens, logits, 17, rows), Error);
  EXPECT_THROW(ops->sample_tokens(*stream, w, tokens, logits, 0, rows), Error);
  EXPECT_THROW(ops->sample_tokens(*stream, w, tokens, flat, 15, rows), Error);
  EXPECT_THROW(ops->sample_tokens(*stream, w, four, logits, 15, rows), Error);
  EXPECT_THROW(ops->sample_tokens(*stream, w, tokens, logits, 15, {floats, floats, floats, floats}), Error);
  if (device->kind() != DeviceKind::Cpu) return;  // a GPU's launcher sees no values
  for (const double wrong : {1.0, -0.1, kNaN}) {
    const HostTensor uniform = copy_of(floats);
    set(uniform, 1, wrong);
    EXPECT_THROW(ops->sample_tokens(*stream, w, tokens, logits, 15, {floats, ints, floats, uniform}), Error);
  }
}

}  // namespace
}  // namespace upcycle
