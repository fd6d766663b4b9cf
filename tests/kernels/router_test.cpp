#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

constexpr RouterSoftmax kOrders[] = {RouterSoftmax::TopkThenSoftmax, RouterSoftmax::SoftmaxThenTopk};

struct Routed {
  HostTensor probs, experts, weights, lse;
  Routed(std::int64_t T, std::int64_t E, std::int64_t k)
      : probs(DType::F32, {T, E}), experts(DType::I32, {T, k}), weights(DType::F32, {T, k}), lse(DType::F32, {T}) {}
};

struct RouterTest : OpTest {
  Routed route(const HostTensor& logits, std::int64_t k, RouterSoftmax order) {
    Routed r(logits.shape[0], logits.shape[1], k);
    ops->router_forward(*stream, r.probs, r.experts, r.weights, r.lse, logits, order);
    return r;
  }
  void get_stats(const HostTensor& stats, const Routed& r) {
    OpLimits limits;
    limits.E = r.probs.shape[1];
    testing::Bytes scratch(ops->workspace_bytes(limits), std::byte{0x5a});
    ops->router_stats(*stream, {scratch.data(), scratch.size()}, stats, r.probs, r.experts, r.lse);
  }
};

// ---- an independent fp64 reference: sort by (falling logit, index) ----------------------------------------------

struct Reference {
  std::vector<double> probs, weights;
  std::vector<int> experts;
  double lse = 0;
};

std::vector<int> choose(const std::vector<double>& logits, std::size_t k) {
  std::vector<int> all(logits.size());
  std::iota(all.begin(), all.end(), 0);
  std::stable_sort(all.begin(), all.end(), [&](int a, int b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  all.resize(k);
  return all;
}

Reference reference(const std::vector<double>& logits, const std::vector<int>& experts, RouterSoftmax order) {
  Reference r;
  r.experts = experts;
  double sum = 0, chosen = 0;
  for (const double l : logits) sum += std::exp(l);
  for (const int e : experts) chosen += std::exp(logits[static_cast<std::size_t>(e)]);
  for (const double l : logits) r.probs.push_back(std::exp(l) / sum);
  for (const int e : experts)
    r.weights.push_back(std::exp(logits[static_cast<std::size_t>(e)]) /
                        (order == RouterSoftmax::TopkThenSoftmax ? chosen : sum));
  r.lse = std::log(sum);
  return r;
}

std::vector<double> row_of(const HostTensor& m, std::int64_t t) {
  std::vector<double> row;
  for (std::int64_t e = 0; e < m.shape[1]; ++e) row.push_back(m.get(t * m.shape[1] + e));
  return row;
}

TEST_F(RouterTest, MatchesReferenceForEveryK) {
  for (const RouterSoftmax order : kOrders)
    for (const std::int64_t E : {1, 2, 8, 13, 64, 100, 256, 300})
      for (std::int64_t k = 1; k <= E; k += k < 4 ? 1 : k < 64 ? 9 : 80) {
        const HostTensor logits = random_tensor(DType::F32, {9, E}, "logits", 3);
        const Routed r = route(logits, k, order);
        for (std::int64_t t = 0; t < 9; ++t) {
          const auto row = row_of(logits, t);
          const Reference want = reference(row, choose(row, static_cast<std::size_t>(k)), order);
          EXPECT_NEAR(r.lse.get(t), want.lse, 1e-6 * (1 + std::abs(want.lse)));
          for (std::int64_t e = 0; e < E; ++e)
            EXPECT_NEAR(r.probs.get(t * E + e), want.probs[static_cast<std::size_t>(e)], 3e-7);
          for (std::int64_t j = 0; j < k; ++j) {
            EXPECT_EQ(r.experts.get(t * k + j), want.experts[static_cast<std::size_t>(j)]) << E << " " << k;
            EXPECT_NEAR(r.weights.get(t * k + j), want.weights[static_cast<std::size_t>(j)], 3e-7);
          }
        }
      }
}

TEST_F(RouterTest, AllExpertsChosenGivesTheFullSoftmaxInBothOrders) {
  const HostTensor logits = random_tensor(DType::F32, {5, 6}, "logits", 2);
  const Routed a = route(logits, 6, kOrders[0]), b = route(logits, 6, kOrders[1]);
  for (std::int64_t i = 0; i < 30; ++i) EXPECT_NEAR(a.weights.get(i), b.weights.get(i), 2e-7);
}

TEST_F(RouterTest, TiesGoToTheLowerExpert) {
  HostTensor logits(DType::F32, {3, 6});
  const double rows[3][6] = {{0, 0, 0, 0, 0, 0}, {1, 5, 2, 5, 2, 5}, {-0.0, 0.0, -1, 0.0, -0.0, -1}};
  for (int t = 0; t < 3; ++t)
    for (int e = 0; e < 6; ++e) set(logits, t * 6 + e, rows[t][e]);
  EXPECT_EQ(route(logits, 4, kOrders[0]).experts.values(), (std::vector<double>{0, 1, 2, 3, 1, 3, 5, 2, 0, 1, 3, 4}));
  EXPECT_EQ(route(logits, 1, kOrders[0]).experts.values(), (std::vector<double>{0, 1, 0}));
}

TEST_F(RouterTest, LargeLogitsDoNotOverflow) {
  HostTensor logits(DType::F32, {1, 3});
  set(logits, 0, 1000);
  set(logits, 1, 999);
  set(logits, 2, -1000);
  for (const RouterSoftmax order : kOrders) {
    const Routed r = route(logits, 2, order);
    EXPECT_NEAR(r.lse.get(0), 1000 + std::log1p(std::exp(-1.0)), 1e-4);
    EXPECT_NEAR(r.weights.get(0), 1 / (1 + std::exp(-1.0)), 1e-6);
    EXPECT_EQ(r.probs.get(2), 0);
  }
}

// A NaN ranks below every number; the row's results are NaN, its experts valid and different, other rows untouched.
TEST_F(RouterTest, NanLogitsChooseValidExpertsAndShow) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const double rows[4][4] = {{nan, 1, nan, 2}, {nan, nan, nan, nan}, {nan, -inf, 0, nan}, {1, 2, 3, 4}};
  HostTensor logits(DType::F32, {4, 4});
  for (int t = 0; t < 4; ++t)
    for (int e = 0; e < 4; ++e) set(logits, t * 4 + e, rows[t][e]);
  const std::vector<double> want = {3, 1, 0, 0, 1, 2, 2, 1, 0, 3, 2, 1};
  for (const RouterSoftmax order : kOrders) {
    const Routed r = route(logits, 3, order);
    EXPECT_EQ(r.experts.values(), want);
    for (std::int64_t i = 0; i < 9; ++i) EXPECT_TRUE(std::isnan(r.weights.get(i))) << i;
    for (std::int64_t i = 0; i < 12; ++i) EXPECT_TRUE(std::isnan(r.probs.get(i))) << i;
    for (std::int64_t t = 0; t < 3; ++t) EXPECT_TRUE(std::isnan(r.lse.get(t)));
    const Routed numbers_only = route(logits, 1, order);  // a row with a NaN has NaN weights even if a number is chosen
    EXPECT_TRUE(std::isnan(numbers_only.weights.get(0)) && std::isnan(numbers_only.weights.get(2)));
    for (std::int64_t i = 9; i < 12; ++i) EXPECT_TRUE(std::isfinite(r.weights.get(i)));
    HostTensor stats(DType::F64, {10});
    get_stats(stats, r);
    EXPECT_TRUE(std::isnan(stats.get(4)) && std::isnan(stats.get(8)) && std::isnan(stats.get(9)));
    EXPECT_EQ(stats.get(0) + stats.get(1) + stats.get(2) + stats.get(3), 12);
  }
}

TEST_F(RouterTest, ReplayGivesTheSameBitsAndKeepsTheGivenExperts) {
  const HostTensor logits = random_tensor(DType::F32, {700, 8}, "logits", 2);
  for (const RouterSoftmax order : kOrders) {
    const Routed r = route(logits, 3, order);
    Routed again(700, 8, 3);
    ops->router_weights(*stream, again.probs, again.weights, again.lse, logits, r.experts, order);
    EXPECT_TRUE(same_bits(again.probs, r.probs) && same_bits(again.weights, r.weights) && same_bits(again.lse, r.lse));
  }
  // Given experts that are not the best ones, it computes their weights, not the best ones'.
  HostTensor worst(DType::I32, {700, 2});
  for (std::int64_t t = 0; t < 700; ++t) {
    const auto all = choose(row_of(logits, t), 8);
    set(worst, 2 * t, all[7]);
    set(worst, 2 * t + 1, all[6]);
  }
  for (const RouterSoftmax order : kOrders) {
    Routed r(700, 8, 2);
    ops->router_weights(*stream, r.probs, r.weights, r.lse, logits, worst, order);
    for (std::int64_t t = 0; t < 700; ++t) {
      const Reference want = reference(
          row_of(logits, t), {static_cast<int>(worst.get(2 * t)), static_cast<int>(worst.get(2 * t + 1))}, order);
      for (std::int64_t j = 0; j < 2; ++j)
        EXPECT_NEAR(r.weights.get(2 * t + j), want.weights[static_cast<std::size_t>(j)], 3e-7);
    }
  }
}

TEST_F(RouterTest, ReplayOfAFarWorseExpertFirstDoesNotOverflow) {
  HostTensor logits(DType::F32, {1, 3}), experts(DType::I32, {1, 2});
  set(logits, 1, 200);
  set(experts, 1, 1);  // experts 0, then 1
  Routed r(1, 3, 2);
  ops->router_weights(*stream, r.probs, r.weights, r.lse, logits, experts, RouterSoftmax::TopkThenSoftmax);
  EXPECT_EQ(r.weights.values(), (std::vector<double>{0, 1}));
}

struct RouterStats : RouterTest, ::testing::WithParamInterface<std::int64_t> {};
INSTANTIATE_TEST_SUITE_P(Experts, RouterStats, ::testing::Values(4, 37, 300));

TEST_P(RouterStats, MatchReference) {
  const std::int64_t T = 333, E = GetParam(), k = 3;
  const HostTensor logits = random_tensor(DType::F32, {T, E}, "logits", 3);
  const Routed r = route(logits, k, kOrders[0]);
  HostTensor stats(DType::F64, {2 * E + 2});
  for (std::int64_t i = 0; i < 2 * E + 2; ++i) set(stats, i, 99);  // overwritten, not added to
  get_stats(stats, r);
  std::vector<double> want(static_cast<std::size_t>(2 * E + 2));
  for (std::int64_t t = 0; t < T; ++t) {
    const auto row = row_of(logits, t);
    const Reference ref = reference(row, choose(row, static_cast<std::size_t>(k)), kOrders[0]);
    for (const int e : ref.experts) want[static_cast<std::size_t>(e)] += 1;
    for (std::size_t e = 0; e < static_cast<std::size_t>(E); ++e) {
      want[static_cast<std::size_t>(E) + e] += ref.probs[e];
      want[static_cast<std::size_t>(2 * E + 1)] -= ref.probs[e] * std::log(ref.probs[e]);
    }
    want[static_cast<std::size_t>(2 * E)] += ref.lse * ref.lse;
  }
  for (std::int64_t i = 0; i < E; ++i) EXPECT_EQ(stats.get(i), want[static_cast<std::size_t>(i)]);
  for (std::int64_t i = E; i < 2 * E + 2; ++i) {
    const double w = want[static_cast<std::size_t>(i)];
    EXPECT_NEAR(stats.get(i), w, 1e-6 * (1 + w)) << i;
  }
}

TEST_F(RouterTest, StatsOfACertainRouterHaveNoEntropy) {
  HostTensor logits(DType::F32, {1, 2});
  set(logits, 0, 500);
  const Routed r = route(logits, 1, kOrders[0]);
  HostTensor stats(DType::F64, {6});
  get_stats(stats, r);
  EXPECT_EQ(stats.values(), (std::vector<double>{1, 0, 1, 0, 250000, 0}));
}

TEST_P(RouterStats, LossesMatchReference) {
  const std::int64_t T = 50, E = GetParam(), k = 3;
  const Routed r = route(random_tensor(DType::F32, {T, E}, "logits", 3), k, kOrders[0]);
  HostTensor stats(DType::F64, {2 * E + 2}), metrics(DType::F64, {4 + E}), scale(DType::F32, {E});
  get_stats(stats, r);
  metrics.fill_value(10);
  scale.fill_value(99);  // overwritten
  const double share = 0.25, coef = 0.3;
  for (int pass = 1; pass <= 2; ++pass) {  // added to
    ops->router_losses(*stream, scale, metrics, stats, {}, T, k, share, coef);
    double want[4] = {0, stats.get(2 * E) / T, stats.get(2 * E + 1) / T, 0}, most = 0;
    for (std::int64_t e = 0; e < E; ++e) {
      const double f = stats.get(e) / T, ratio = static_cast<double>(E) / k;
      want[0] += ratio * f * stats.get(E + e) / T;
      EXPECT_NEAR(scale.get(e), coef * ratio * f / T, 1e-6 * coef * ratio * f / T);
      most = std::max(most, stats.get(e));
    }
    want[3] = most * E / (T * k);
    for (int i = 0; i < 4; ++i) EXPECT_NEAR(metrics.get(i), 10 + pass * share * want[i], 1e-12 * metrics.get(i)) << i;
    for (std::int64_t e = 0; e < E; ++e) EXPECT_EQ(metrics.get(4 + e), 10 + pass * stats.get(e)) << e;
  }
}

// f of other tokens than the probabilities are of: the loss and its scale follow them, the load and its maximum do not.
TEST_P(RouterStats, LossesOfOtherTokensCounts) {
  const std::int64_t T = 50, E = GetParam(), k = 3;
  const Routed r = route(random_tensor(DType::F32, {T, E}, "logits", 3), k, kOrders[0]);
  HostTensor stats(DType::F64, {2 * E + 2}), counted(DType::F64, {E}), scale(DType::F32, {E});
  get_stats(stats, r);
  double tokens = 0;
  for (std::int64_t e = 0; e < E; ++e) {
    set(counted, e, stats.get(e) + static_cast<double>(e * e % 7));
    tokens += counted.get(e) / k;
  }
  HostTensor metrics(DType::F64, {4 + E}), plain(DType::F64, {4 + E}), other(DType::F32, {E});
  metrics.fill_value(0);
  plain.fill_value(0);
  ops->router_losses(*stream, scale, metrics, stats, counted, T, k, 0.25, 0.3);
  ops->router_losses(*stream, other, plain, stats, {}, T, k, 0.25, 0.3);
  double aux = 0;
  for (std::int64_t e = 0; e < E; ++e) {
    const double f = counted.get(e) / tokens, ratio = static_cast<double>(E) / k;
    aux += ratio * f * stats.get(E + e) / T;
    EXPECT_NEAR(scale.get(e), 0.3 * ratio * f / T, 1e-6 * 0.3 * ratio * f / T);
  }
  EXPECT_NEAR(metrics.get(0), 0.25 * aux, 1e-12 * aux);
  EXPECT_GT(std::abs(metrics.get(0) - plain.get(0)), 1e-6);
  for (std::int64_t i = 1; i < 4 + E; ++i) EXPECT_EQ(metrics.get(i), plain.get(i)) << i;
  // The counts of its own tokens change no bit.
  HostTensor own(DType::F64, {E}), same(DType::F64, {4 + E});
  same.fill_value(0);
  for (std::int64_t e = 0; e < E; ++e) set(own, e, stats.get(e));
  ops->router_losses(*stream, scale, same, stats, own, T, k, 0.25, 0.3);
  EXPECT_TRUE(same_bits(scale, other) && same_bits(same, plain));
}

TEST_F(RouterTest, UniformRoutingHasALoadBalancingLossOfOne) {
  const std::int64_t E = 8, k = 2, T = 12;
  HostTensor stats(DType::F64, {2 * E + 2}), metrics(DType::F64, {4 + E}), scale(DType::F32, {E});
  for (std::int64_t e = 0; e < E; ++e) {
    set(stats, e, static_cast<double>(T * k) / E);
    set(stats, E + e, static_cast<double>(T) / E);
  }
  ops->router_losses(*stream, scale, metrics, stats, {}, T, k, 1, 1);
  EXPECT_NEAR(metrics.get(0), 1, 1e-12);
  EXPECT_NEAR(metrics.get(3), 1, 1e-12);
}

// ---- backward ----------------------------------------------------------------------------------------------------

// loss = sum over t, j of dweights * weights + sum over t, e of scale_e * probs_e + z * lse^2, experts held fixed.
double loss_of(const std::vector<double>& logits, const std::vector<int>& experts, const std::vector<double>& dweights,
               const std::vector<double>& scale, double z, RouterSoftmax order) {
  const Reference r = reference(logits, experts, order);
  double loss = z * r.lse * r.lse;
  for (std::size_t j = 0; j < experts.size(); ++j) loss += dweights[j] * r.weights[j];
  for (std::size_t e = 0; e < scale.size(); ++e) loss += scale[e] * r.probs[e];
  return loss;
}

TEST_F(RouterTest, BackwardMatchesFiniteDifferences) {
  const std::int64_t T = 6;
  for (const RouterSoftmax order : kOrders)
    for (const auto& [E, k] :
         {std::pair<std::int64_t, std::int64_t>{8, 2}, {8, 1}, {5, 5}, {13, 4}, {1, 1}, {70, 6}, {260, 2}})
      for (const auto& [aux, z] : {std::pair<double, double>{0, 0}, {0.7, 0}, {0, 0.3}, {0.7, 0.3}}) {
        const HostTensor logits = random_tensor(DType::F32, {T, E}, "logits", 2);
        const HostTensor dweights = random_tensor(DType::F32, {T, k}, "dweights");
        const HostTensor scale = random_tensor(DType::F32, {E}, "scale", aux);
        const Routed r = route(logits, k, order);
        HostTensor dlogits(DType::F32, {T, E});
        for (std::int64_t i = 0; i < T * E; ++i) set(dlogits, i, 99);  // overwritten
        ops->router_backward(*stream, dlogits, dweights, r.probs, r.experts, r.weights, r.lse, scale,
                             static_cast<float>(z), order);
        for (std::int64_t t = 0; t < T; ++t) {
          auto row = row_of(logits, t);
          std::vector<int> experts;
          for (std::int64_t j = 0; j < k; ++j) experts.push_back(static_cast<int>(r.experts.get(t * k + j)));
          for (std::int64_t e = 0; e < E; ++e) {
            const double h = 1e-5, at = row[static_cast<std::size_t>(e)];
            double side[2];
            for (int s = 0; s < 2; ++s) {
              row[static_cast<std::size_t>(e)] = at + (s == 0 ? -h : h);
              side[s] = loss_of(row, experts, row_of(dweights, t), scale.values(), z, order);
            }
            row[static_cast<std::size_t>(e)] = at;
            const double want = (side[1] - side[0]) / (2 * h);
            EXPECT_NEAR(dlogits.get(t * E + e), want, 2e-6 * (1 + std::abs(want)))
                << "E " << E << " k " << k << " aux " << aux << " z " << z;
          }
        }
      }
}

// Copies of one MLP: equal dweights must give exactly zero, or Adam turns rounding noise into full steps.
TEST_F(RouterTest, EqualGradientsGiveExactlyZero) {
  const HostTensor logits = random_tensor(DType::F32, {40, 8}, "logits", 2);
  HostTensor dweights(DType::F32, {40, 3}), scale(DType::F32, {8}), dlogits(DType::F32, {40, 8});
  for (std::int64_t i = 0; i < 120; ++i) set(dweights, i, 0.1 + static_cast<double>(i / 3));
  for (std::int64_t e = 0; e < 8; ++e) set(scale, e, 0.3);
  const Routed r = route(logits, 3, kOrders[0]);
  ops->router_backward(*stream, dlogits, dweights, r.probs, r.experts, r.weights, r.lse, scale, 0, kOrders[0]);
  for (const double d : dlogits.values()) EXPECT_EQ(d, 0);
}

TEST_F(RouterTest, NoTokensWork) {
  for (const RouterSoftmax order : kOrders) {
    const HostTensor logits(DType::F32, {0, 4}), dweights(DType::F32, {0, 2}), dlogits(DType::F32, {0, 4});
    const Routed r = route(logits, 2, order);
    HostTensor stats(DType::F64, {10}), scale(DType::F32, {4});
    for (std::int64_t i = 0; i < 10; ++i) set(stats, i, 5);
    ops->router_weights(*stream, r.probs, r.weights, r.lse, logits, r.experts, order);
    get_stats(stats, r);
    ops->router_backward(*stream, dlogits, dweights, r.probs, r.experts, r.weights, r.lse, scale, 1, order);
    EXPECT_EQ(stats.values(), std::vector<double>(10, 0.0));
  }
}

TEST_F(RouterTest, SameBitsTwiceAndOnAnyNumberOfThreads) {
  const std::int64_t T = 1001, E = 24, k = 5;
  const HostTensor logits = random_tensor(DType::F32, {T, E}, "logits", 2);
  const HostTensor dweights = random_tensor(DType::F32, {T, k}, "dweights"),
                   scale = random_tensor(DType::F32, {E}, "s");
  for (const RouterSoftmax order : kOrders) {
    std::vector<std::vector<HostTensor>> runs;
    for (const int threads : {1, 1, 2, 3}) {
      const ThreadCount count(threads);
      const Routed r = route(logits, k, order);
      HostTensor stats(DType::F64, {2 * E + 2}), dlogits(DType::F32, {T, E});
      get_stats(stats, r);
      ops->router_backward(*stream, dlogits, dweights, r.probs, r.experts, r.weights, r.lse, scale, 0.1f, order);
      runs.push_back({r.probs, r.experts, r.weights, r.lse, stats, dlogits});
    }
    for (std::size_t run = 1; run < runs.size(); ++run)
      for (std::size_t i = 0; i < runs[0].size(); ++i)
        EXPECT_TRUE(same_bits(runs[run][i], runs[0][i])) << run << " " << i;
  }
}

TEST_F(RouterTest, BadArgumentsThrow) {
  const HostTensor logits = random_tensor(DType::F32, {3, 4}, "logits");
  EXPECT_THROW(route(logits, 5, kOrders[0]), Error);
  EXPECT_THROW(route(logits, 0, kOrders[0]), Error);
  EXPECT_THROW(route(random_tensor(DType::BF16, {3, 4}, "logits"), 2, kOrders[0]), Error);
  Routed r(3, 4, 2);
  EXPECT_THROW(ops->router_forward(*stream, r.probs, r.experts, r.lse, r.lse, logits, kOrders[0]), Error);
  if (device->kind() != DeviceKind::Cpu) return;  // only the host can throw for what it reads
  set(r.experts, 1, 4);
  EXPECT_THROW(ops->router_weights(*stream, r.probs, r.weights, r.lse, logits, r.experts, kOrders[0]), Error);
  set(r.experts, 1, -1);
  EXPECT_THROW(ops->router_weights(*stream, r.probs, r.weights, r.lse, logits, r.experts, kOrders[0]), Error);
}

}  // namespace
}  // namespace upcycle
