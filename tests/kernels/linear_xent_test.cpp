#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "tests/kernels/host_tensor.h"

namespace upcycle {
namespace {

using testing::HostTensor;
using testing::OpBench;
using testing::relative_l2;

OpLimits limits_of(std::int64_t T, std::int64_t V, std::int64_t H, DType dtype) {
  return {.T = T, .H = H, .V = V, .dtype = dtype};
}

// Targets at both ends of the vocabulary and in between; every seventh token is not counted.
HostTensor make_targets(std::int64_t T, std::int64_t vocab) {
  HostTensor targets(DType::I32, {T});
  for (std::int64_t t = 0; t < T; ++t)
    targets.set(t, t % 7 == 3 ? -1 : t == 0 ? 0 : t == 1 ? vocab - 1 : static_cast<double>((t * 7919) % vocab));
  return targets;
}

struct Results {
  HostTensor stats, nll, lse, loss_sum, dx, dweight;
  Results(std::int64_t T, std::int64_t V, std::int64_t H, DType dx_type, std::int64_t gap)
      : stats(DType::F32, {1, T, 3}),
        nll(DType::F32, {T}),
        lse(DType::F32, {T}),
        loss_sum(DType::F64, {1}),
        dx(dx_type, {T, H}, gap),
        dweight(DType::F32, {V, H}, gap) {}
};

Results run(OpBench& bench, const Tensor& x, const Tensor& weight, const Tensor& targets, std::int64_t vocab_begin,
            std::int64_t vocab_valid, float scale, DType dx_type, std::int64_t gap = 0) {
  const std::int64_t T = x.shape[0], V = weight.shape[0], H = x.shape[1];
  Results r(T, V, H, dx_type, gap);
  r.dx.fill_value(9);       // overwritten
  r.dweight.fill_value(2);  // added to
  bench.ops->linear_xent_stats(*bench.stream, bench.workspace, r.stats.reshaped({T, 3}), x, weight, targets,
                               vocab_begin, vocab_valid);
  bench.ops->xent_combine(*bench.stream, r.nll, r.lse, r.loss_sum, r.stats, targets);
  bench.ops->linear_xent_backward(*bench.stream, bench.workspace, r.dx, r.dweight, x, weight, targets, r.lse,
                                  vocab_begin, vocab_valid, scale);
  return r;
}

struct Reference {
  std::vector<double> nll, lse, dx, dweight;
  double loss = 0;
};

Reference reference(const HostTensor& x, const HostTensor& weight, const HostTensor& targets, std::int64_t valid,
                    double scale) {
  const std::int64_t T = x.shape[0], V = weight.shape[0], H = x.shape[1];
  const std::vector<double> xs = x.values(), ws = weight.values();
  Reference r;
  r.dx.assign(static_cast<std::size_t>(T * H), 0);
  r.dweight.assign(static_cast<std::size_t>(V * H), 2);
  std::vector<double> logits(static_cast<std::size_t>(valid));
  for (std::int64_t t = 0; t < T; ++t) {
    const double* const xt = &xs[static_cast<std::size_t>(t * H)];
    double highest = -INFINITY, sum = 0;
    for (std::int64_t v = 0; v < valid; ++v) {
      double logit = 0;
      for (std::int64_t h = 0; h < H; ++h) logit += xt[h] * ws[static_cast<std::size_t>(v * H + h)];
      logits[static_cast<std::size_t>(v)] = logit;
      highest = std::max(highest, logit);
    }
    for (const double logit : logits) sum += std::exp(logit - highest);
    const double lse = highest + std::log(sum);
    const auto target = static_cast<std::int64_t>(targets.get(t));
    r.lse.push_back(lse);
    r.nll.push_back(target < 0 ? 0 : lse - logits[static_cast<std::size_t>(target)]);
    r.loss += r.nll.back();
    if (target < 0) continue;
    for (std::int64_t v = 0; v < valid; ++v) {
      const double d = (std::exp(logits[static_cast<std::size_t>(v)] - lse) - (v == target)) * scale;
      for (std::int64_t h = 0; h < H; ++h) {
        r.dx[static_cast<std::size_t>(t * H + h)] += d * ws[static_cast<std::size_t>(v * H + h)];
        r.dweight[static_cast<std::size_t>(v * H + h)] += d * xt[h];
      }
    }
  }
  return r;
}

void expect_close(const Results& r, const Reference& expected, DType dtype) {
  for (std::size_t t = 0; t < expected.nll.size(); ++t) {
    ASSERT_NEAR(r.lse.get(static_cast<std::int64_t>(t)), expected.lse[t],
                3e-6 * std::max(1.0, std::abs(expected.lse[t])));
    ASSERT_NEAR(r.nll.get(static_cast<std::int64_t>(t)), expected.nll[t],
                3e-6 * std::max(1.0, std::abs(expected.lse[t])));
  }
  EXPECT_NEAR(r.loss_sum.get(0), expected.loss, 1e-6 * std::abs(expected.loss));
  // bf16: each of dlogits is rounded to 8 bits. fp32: 2e-6 for sums of 2500 terms; rounding errors of a sum grow as the
  // square root of its length.
  const auto terms = static_cast<double>(std::max(expected.lse.size(), static_cast<std::size_t>(r.dweight.rows())));
  const double bound = dtype == DType::BF16 ? 0x1p-9 : 2e-6 * std::sqrt(std::max(1.0, terms / 2500));
  EXPECT_LT(relative_l2(r.dx.values(), expected.dx), r.dx.dtype == DType::BF16 ? 0x1p-8 : bound);
  std::vector<double> added = r.dweight.values(), wanted = expected.dweight;
  for (double& v : added) v -= 2;
  for (double& v : wanted) v -= 2;
  EXPECT_LT(relative_l2(added, wanted), bound);
  EXPECT_TRUE(r.dx.gaps_untouched() && r.dweight.gaps_untouched());
}

// Sizes of one block and of several, whole and ragged, with padded vocabulary rows and strided operands.
TEST(LinearXent, EqualsAPlainLoop) {
  struct Case {
    std::int64_t T, V, H, valid, gap;
  };
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const auto& [T, V, H, valid, gap] : {Case{1, 2, 1, 2, 0}, Case{64, 512, 64, 512, 0}, Case{13, 37, 9, 31, 5},
                                              Case{600, 2500, 8, 2499, 3}, Case{2050, 4110, 1, 4109, 3}}) {
      SCOPED_TRACE(fmt::format("{} T {} V {} H {} valid {} gap {}", name_of(dtype), T, V, H, valid, gap));
      HostTensor x(dtype, {T, H}, gap), weight(dtype, {V, H}, 2 * gap);
      x.fill_normal("x");
      weight.fill_normal("w", 2 / std::sqrt(static_cast<double>(H)));
      const HostTensor targets = make_targets(T, valid);
      OpBench bench(limits_of(T, V, H, dtype));
      const Reference expected = reference(x, weight, targets, valid, 0.125);
      expect_close(run(bench, x, weight, targets, 0, valid, 0.125f, DType::F32, gap), expected, dtype);
      expect_close(run(bench, x, weight, targets, 0, valid, 0.125f, dtype, gap), expected, dtype);
    }
}

TEST(LinearXent, GradientsEqualFiniteDifferences) {
  const std::int64_t T = 5, V = 11, H = 7;
  HostTensor x(DType::F32, {T, H}), weight(DType::F32, {V, H});
  x.fill_normal("x");
  weight.fill_normal("w");
  const HostTensor targets = make_targets(T, V);
  OpBench bench(limits_of(T, V, H, DType::F32));
  const Results r = run(bench, x, weight, targets, 0, V, 1, DType::F32);
  const auto loss = [&] { return run(bench, x, weight, targets, 0, V, 1, DType::F32).loss_sum.get(0); };
  const auto check = [&](HostTensor& input, const HostTensor& gradient, double offset) {
    constexpr double kStep = 1.0 / 128;
    for (std::int64_t i = 0; i < input.size(); ++i) {
      const double at = input.get(i);
      input.set(i, at + kStep);
      const double above = loss();
      input.set(i, at - kStep);
      const double below = loss();
      input.set(i, at);
      EXPECT_NEAR(gradient.get(i) - offset, (above - below) / (2 * kStep), 5e-4) << i;
    }
  };
  check(x, r.dx, 0);
  check(weight, r.dweight, 2);
}

// Three shards of the vocabulary, one with padding and one of only padding, combined: the same as one rank.
TEST(LinearXent, ShardsJoinToTheWhole) {
  const std::int64_t T = 70, V = 2300, H = 24;
  for (const DType dtype : {DType::F32, DType::BF16}) {
    HostTensor x(dtype, {T, H}), weight(dtype, {V, H});
    x.fill_normal("x");
    weight.fill_normal("w", 0.5);
    const HostTensor targets = make_targets(T, V);
    OpBench bench(limits_of(T, V, H, dtype));
    const Results whole = run(bench, x, weight, targets, 0, V, 0.25f, DType::F32);
    struct Shard {
      std::int64_t begin, rows, valid;
    };
    const std::vector<Shard> shards = {{0, 900, 900}, {900, 600, 600}, {1500, 832, 800}, {2332, 40, 0}};
    HostTensor stats(DType::F32, {4, T, 3}), nll(DType::F32, {T}), lse(DType::F32, {T}), loss_sum(DType::F64, {1});
    std::vector<HostTensor> weights;
    for (std::size_t r = 0; r < shards.size(); ++r) {
      const auto [begin, rows, valid] = shards[r];
      HostTensor& w = weights.emplace_back(dtype, std::initializer_list<std::int64_t>{rows, H});
      w.fill_value(3);  // padding must not count
      for (std::int64_t i = 0; i < valid * H; ++i) w.set(i, weight.get(begin * H + i));
      const auto rank = static_cast<std::int64_t>(r);
      bench.ops->linear_xent_stats(*bench.stream, bench.workspace, stats.slice_rows(rank, rank + 1).reshaped({T, 3}), x,
                                   w, targets, begin, valid);
    }
    bench.ops->xent_combine(*bench.stream, nll, lse, loss_sum, stats, targets);
    EXPECT_LT(relative_l2(nll.values(), whole.nll.values()), 1e-6);
    EXPECT_LT(relative_l2(lse.values(), whole.lse.values()), 1e-6);
    EXPECT_NEAR(loss_sum.get(0), whole.loss_sum.get(0), 1e-6 * whole.loss_sum.get(0));
    std::vector<double> dx(static_cast<std::size_t>(T * H)), dweight(static_cast<std::size_t>(V * H));
    for (std::size_t r = 0; r < shards.size(); ++r) {
      const auto [begin, rows, valid] = shards[r];
      HostTensor part(DType::F32, {T, H}), dw(DType::F32, {rows, H});
      part.fill_value(5);
      bench.ops->linear_xent_backward(*bench.stream, bench.workspace, part, dw, x, weights[r], targets, lse, begin,
                                      valid, 0.25f);
      for (std::int64_t i = 0; i < T * H; ++i) dx[static_cast<std::size_t>(i)] += part.get(i);
      for (std::int64_t i = 0; i < rows * H; ++i)
        if (i < valid * H)
          dweight[static_cast<std::size_t>(begin * H + i)] = dw.get(i) + 2;
        else
          EXPECT_EQ(dw.get(i), 0);
    }
    EXPECT_LT(relative_l2(dx, whole.dx.values()), dtype == DType::BF16 ? 1e-4 : 1e-6);
    EXPECT_LT(relative_l2(dweight, whole.dweight.values()), 1e-6);
  }
}

TEST(LinearXent, UncountedTokensGiveNothing) {
  const std::int64_t T = 6, V = 40, H = 8;
  HostTensor x(DType::F32, {T, H}), weight(DType::F32, {V, H}), targets(DType::I32, {T});
  x.fill_normal("x");
  weight.fill_normal("w");
  targets.fill_value(-1);
  OpBench bench(limits_of(T, V, H, DType::F32));
  Results r = run(bench, x, weight, targets, 0, V, 1, DType::F32);
  EXPECT_EQ(r.loss_sum.get(0), 0);
  for (const double v : r.nll.values()) EXPECT_EQ(v, 0);
  for (const double v : r.dx.values()) EXPECT_EQ(v, 0);
  for (const double v : r.dweight.values()) EXPECT_EQ(v, 2);
  r.lse.fill_value(NAN);  // meaningless here, so not read
  bench.ops->linear_xent_backward(*bench.stream, bench.workspace, r.dx, r.dweight, x, weight, targets, r.lse, 0, V, 1);
  for (const double v : r.dx.values()) EXPECT_EQ(v, 0);
}

TEST(LinearXent, NoTokensAndFarApartLogits) {
  {
    HostTensor x(DType::F32, {0, 8}), weight(DType::F32, {40, 8});
    const HostTensor targets(DType::I32, {0});
    OpBench bench(limits_of(0, 40, 8, DType::F32));
    EXPECT_EQ(run(bench, x, weight, targets, 0, 40, 1, DType::F32).loss_sum.get(0), 0);
  }
  // Logits of +-1000 neither overflow nor lose the target's.
  HostTensor x(DType::F32, {2, 1}), weight(DType::F32, {3000, 1}), targets(DType::I32, {2});
  x.set(0, 1000);
  x.set(1, -1000);
  weight.set(2999, 1);
  targets.set(0, 2999);
  targets.set(1, 2999);
  OpBench bench(limits_of(2, 3000, 1, DType::F32));
  const Results r = run(bench, x, weight, targets, 0, 3000, 1, DType::F32);
  EXPECT_NEAR(r.nll.get(0), 0, 1e-6);
  EXPECT_NEAR(r.nll.get(1), 1000 + std::log(2999.0), 1e-3);
}

TEST(LinearXent, SameInputsSameBits) {
  const std::int64_t T = 530, V = 2100, H = 32;
  HostTensor x(DType::BF16, {T, H}), weight(DType::BF16, {V, H});
  x.fill_normal("x");
  weight.fill_normal("w");
  const HostTensor targets = make_targets(T, V);
  OpBench bench(limits_of(T, V, H, DType::BF16));
  const Results a = run(bench, x, weight, targets, 0, V, 1, DType::BF16);
  const Results b = run(bench, x, weight, targets, 0, V, 1, DType::BF16);
  EXPECT_EQ(std::memcmp(a.dx.data, b.dx.data, a.dx.bytes()), 0);
  EXPECT_EQ(std::memcmp(a.dweight.data, b.dweight.data, a.dweight.bytes()), 0);
  EXPECT_EQ(std::memcmp(a.nll.data, b.nll.data, a.nll.bytes()), 0);
}

TEST(LinearXent, RefusesWrongSizes) {
  HostTensor x(DType::F32, {4, 8}), weight(DType::F32, {10, 8}), targets(DType::I32, {4}), stats(DType::F32, {4, 3});
  OpBench bench(limits_of(4, 10, 8, DType::F32));
  const auto stats_of = [&](const Tensor& s, const Tensor& w, const Tensor& t, std::int64_t valid) {
    bench.ops->linear_xent_stats(*bench.stream, bench.workspace, s, x, w, t, 0, valid);
  };
  EXPECT_NO_THROW(stats_of(stats, weight, targets, 10));
  EXPECT_THROW(stats_of(stats, weight, targets, 11), Error);
  EXPECT_THROW(stats_of(HostTensor(DType::F32, {4, 2}), weight, targets, 10), Error);
  EXPECT_THROW(stats_of(stats, HostTensor(DType::F32, {10, 7}), targets, 10), Error);
  EXPECT_THROW(stats_of(stats, HostTensor(DType::BF16, {10, 8}), targets, 10), Error);
  EXPECT_THROW(stats_of(stats, weight, HostTensor(DType::I32, {5}), 10), Error);
  bench.workspace.bytes = 1000;
  EXPECT_THROW(stats_of(stats, weight, targets, 10), Error);
}

}  // namespace
}  // namespace upcycle
