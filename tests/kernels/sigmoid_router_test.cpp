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

struct SigmoidRouter : OpTest {
  Routed route(const HostTensor& logits, const Tensor& bias, std::int64_t k, RouterSoftmax order) {
    Routed r(logits.shape[0], logits.shape[1], k);
    ops->sigmoid_router_forward(*stream, r.probs, r.experts, r.weights, r.lse, logits, bias, order);
    return r;
  }
};

// ---- an independent fp64 reference ---------------------------------------------------------------------------------

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// By falling score, biased, then index.
std::vector<int> choose(const std::vector<double>& logits, const std::vector<double>& bias, std::size_t k) {
  std::vector<int> all(logits.size());
  std::iota(all.begin(), all.end(), 0);
  const auto biased = [&](int e) {
    return sigmoid(logits[static_cast<std::size_t>(e)]) + bias[static_cast<std::size_t>(e)];
  };
  std::stable_sort(all.begin(), all.end(), [&](int a, int b) { return biased(a) > biased(b); });
  all.resize(k);
  return all;
}

struct Reference {
  std::vector<double> probs, weights;
  double lse = 0;
};

Reference reference(const std::vector<double>& logits, const std::vector<int>& experts, RouterSoftmax order) {
  Reference r;
  double sum = 0, chosen = 0, exps = 0;
  for (const double l : logits) sum += sigmoid(l), exps += std::exp(l);
  for (const int e : experts) chosen += sigmoid(logits[static_cast<std::size_t>(e)]);
  for (const double l : logits) r.probs.push_back(sigmoid(l) / sum);
  for (const int e : experts)
    r.weights.push_back(sigmoid(logits[static_cast<std::size_t>(e)]) /
                        (order == RouterSoftmax::TopkThenSoftmax ? chosen : 1));
  r.lse = std::log(exps);
  return r;
}

std::vector<double> row_of(const HostTensor& m, std::int64_t t) {
  std::vector<double> row;
  for (std::int64_t e = 0; e < m.shape[1]; ++e) row.push_back(m.get(t * m.shape[1] + e));
  return row;
}

std::vector<int> experts_of(const Routed& r, std::int64_t t) {
  std::vector<int> experts;
  for (const double e : row_of(r.experts, t)) experts.push_back(static_cast<int>(e));
  return experts;
}

TEST_F(SigmoidRouter, MatchesReferenceForEveryK) {
  for (const bool biased : {false, true})
    for (const RouterSoftmax order : kOrders)
      for (const std::int64_t E : {1, 2, 8, 13, 64, 100, 256, 300})
        for (std::int64_t k = 1; k <= E; k += k < 4 ? 1 : k < 64 ? 9 : 80) {
          const HostTensor logits = random_tensor(DType::F32, {9, E}, "logits", 3);
          const HostTensor bias = random_tensor(DType::F32, {E}, "bias", biased ? 0.3 : 0);
          const Routed r = route(logits, biased ? Tensor(bias) : Tensor{}, k, order);
          for (std::int64_t t = 0; t < 9; ++t) {
            const auto row = row_of(logits, t);
            const auto want_experts = choose(row, bias.values(), static_cast<std::size_t>(k));
            // Scores closer than fp32 tells apart may change places; their weights then follow the op's order.
            const auto experts = experts_of(r, t);
            for (std::size_t j = 0; j < experts.size(); ++j) {
              const auto at = [&](int e) {
                return sigmoid(row[static_cast<std::size_t>(e)]) + bias.get(static_cast<std::int64_t>(e));
              };
              EXPECT_NEAR(at(experts[j]), at(want_experts[j]), 2e-7) << E << " " << k;
            }
            const Reference want = reference(row, experts, order);
            EXPECT_NEAR(r.lse.get(t), want.lse, 1e-6 * (1 + std::abs(want.lse)));
            for (std::int64_t e = 0; e < E; ++e)
              EXPECT_NEAR(r.probs.get(t * E + e), want.probs[static_cast<std::size_t>(e)], 3e-7);
            for (std::int64_t j = 0; j < k; ++j)
              EXPECT_NEAR(r.weights.get(t * k + j), want.weights[static_cast<std::size_t>(j)], 3e-7);
          }
        }
}

TEST_F(SigmoidRouter, BiasesChooseAndDoNotWeigh) {
  HostTensor logits(DType::F32, {1, 4}), bias(DType::F32, {4});
  const double x[] = {2, 1, 0, -3};
  for (int e = 0; e < 4; ++e) set(logits, e, x[e]);
  bias.fill_value(0);
  set(bias, 3, 1);
  const Routed r = route(logits, bias, 2, RouterSoftmax::SoftmaxThenTopk);
  EXPECT_EQ(r.experts.values(), (std::vector<double>{3, 0}));
  EXPECT_NEAR(r.weights.get(0), sigmoid(-3), 1e-7);
  EXPECT_NEAR(r.weights.get(1), sigmoid(2), 1e-7);
}

TEST_F(SigmoidRouter, TiesGoToTheLowerExpert) {
  HostTensor logits(DType::F32, {2, 6}), bias(DType::F32, {6});
  const double rows[2][6] = {{0, 0, 0, 0, 0, 0}, {1, 5, 2, 5, 2, 5}};
  for (int t = 0; t < 2; ++t)
    for (int e = 0; e < 6; ++e) set(logits, t * 6 + e, rows[t][e]);
  bias.fill_value(-0.25);
  const std::vector<double> want = {0, 1, 2, 3, 1, 3, 5, 2};
  EXPECT_EQ(route(logits, Tensor{}, 4, kOrders[0]).experts.values(), want);
  EXPECT_EQ(route(logits, bias, 4, kOrders[0]).experts.values(), want);
}

TEST_F(SigmoidRouter, LargeLogitsOfEitherSignAreFinite) {
  HostTensor logits(DType::F32, {2, 3});
  const double rows[2][3] = {{1000, 999, -1000}, {-1000, -999, -2000}};
  for (int i = 0; i < 6; ++i) set(logits, i, rows[i / 3][i % 3]);
  for (const RouterSoftmax order : kOrders) {
    const Routed r = route(logits, Tensor{}, 2, order);
    EXPECT_NEAR(r.lse.get(0), 1000 + std::log1p(std::exp(-1.0)), 1e-4);
    EXPECT_NEAR(r.weights.get(0), order == RouterSoftmax::TopkThenSoftmax ? 0.5 : 1, 1e-6);
    EXPECT_EQ(r.weights.get(2), 0);  // scores that underflow weigh nothing
    for (const double p : r.probs.values()) EXPECT_TRUE(std::isfinite(p));
  }
}

// A NaN ranks below every number; the row's results are NaN, its experts valid and different, other rows untouched.
TEST_F(SigmoidRouter, NanLogitsChooseValidExpertsAndShow) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double rows[3][4] = {{nan, 1, nan, 2}, {nan, nan, nan, nan}, {1, 2, 3, 4}};
  HostTensor logits(DType::F32, {3, 4}), bias(DType::F32, {4});
  bias.fill_value(0.125);
  for (int t = 0; t < 3; ++t)
    for (int e = 0; e < 4; ++e) set(logits, t * 4 + e, rows[t][e]);
  for (const RouterSoftmax order : kOrders) {
    const Routed r = route(logits, bias, 2, order);
    EXPECT_EQ(r.experts.values(), (std::vector<double>{3, 1, 0, 1, 3, 2}));
    for (std::int64_t i = 0; i < 4; ++i) EXPECT_TRUE(std::isnan(r.weights.get(i))) << i;
    for (std::int64_t i = 0; i < 8; ++i) EXPECT_TRUE(std::isnan(r.probs.get(i))) << i;
    EXPECT_TRUE(std::isnan(r.lse.get(0)) && std::isnan(r.lse.get(1)));
    for (std::int64_t i = 4; i < 6; ++i) EXPECT_TRUE(std::isfinite(r.weights.get(i))) << i;
  }
}

TEST_F(SigmoidRouter, ReplayGivesTheSameBitsAndKeepsTheGivenExperts) {
  const HostTensor logits = random_tensor(DType::F32, {700, 8}, "logits", 2);
  const HostTensor bias = random_tensor(DType::F32, {8}, "bias", 0.3);
  for (const RouterSoftmax order : kOrders) {
    const Routed r = route(logits, bias, 3, order);
    Routed again(700, 8, 3);
    ops->sigmoid_router_weights(*stream, again.probs, again.weights, again.lse, logits, r.experts, order);
    EXPECT_TRUE(same_bits(again.probs, r.probs) && same_bits(again.weights, r.weights) && same_bits(again.lse, r.lse));
  }
}

// ---- backward ----------------------------------------------------------------------------------------------------

// As in router_test.cpp: experts held fixed.
double loss_of(const std::vector<double>& logits, const std::vector<int>& experts, const std::vector<double>& dweights,
               const std::vector<double>& scale, double z, RouterSoftmax order) {
  const Reference r = reference(logits, experts, order);
  double loss = z * r.lse * r.lse;
  for (std::size_t j = 0; j < experts.size(); ++j) loss += dweights[j] * r.weights[j];
  for (std::size_t e = 0; e < scale.size(); ++e) loss += scale[e] * r.probs[e];
  return loss;
}

TEST_F(SigmoidRouter, BackwardMatchesFiniteDifferences) {
  const std::int64_t T = 6;
  for (const RouterSoftmax order : kOrders)
    for (const auto& [E, k] :
         {std::pair<std::int64_t, std::int64_t>{8, 2}, {8, 1}, {5, 5}, {13, 4}, {1, 1}, {70, 6}, {260, 40}})
      for (const auto& [aux, z] : {std::pair<double, double>{0, 0}, {0.7, 0}, {0, 0.3}, {0.7, 0.3}}) {
        const HostTensor logits = random_tensor(DType::F32, {T, E}, "logits", 2);
        const HostTensor dweights = random_tensor(DType::F32, {T, k}, "dweights");
        const HostTensor scale = random_tensor(DType::F32, {E}, "scale", aux);
        const Routed r = route(logits, random_tensor(DType::F32, {E}, "bias", 0.3), k, order);
        HostTensor dlogits(DType::F32, {T, E});
        for (std::int64_t i = 0; i < T * E; ++i) set(dlogits, i, 99);  // overwritten
        ops->sigmoid_router_backward(*stream, dlogits, dweights, r.probs, r.experts, r.weights, r.lse, logits, scale,
                                     static_cast<float>(z), order);
        for (std::int64_t t = 0; t < T; ++t) {
          auto row = row_of(logits, t);
          const std::vector<int> experts = experts_of(r, t);
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

// Numbers of transformers 5.24's DeepseekV3TopkRouter (weight: the identity, no groups, factor 1) and of PyTorch 2.15's
// gradient of  sum of d * weights + sum of a * shares of scores + 0.125 * sum of squared log-sum-exps.
TEST_F(SigmoidRouter, GivesTheNumbersOfTransformersDeepseekV3) {
  const std::int64_t T = 3, E = 8, k = 3;
  HostTensor logits(DType::F32, {T, E}), bias(DType::F32, {E}), dweights(DType::F32, {T, k}), scale(DType::F32, {E}),
      dlogits(DType::F32, {T, E});
  for (std::int64_t i = 0; i < T * E; ++i) set(logits, i, static_cast<double>(i * 37 % 41 - 20) / 8);
  for (std::int64_t e = 0; e < E; ++e) {
    set(bias, e, static_cast<double>(e * 5 % 7 - 3) / 16);
    set(scale, e, static_cast<double>(e % 3 - 1) / 2);
  }
  const std::vector<double> experts = {1, 4, 2, 4, 5, 3, 5, 6, 7};  // without the biases: 1 2 3, 3 4 5, 5 6 7
  const double weights[2][9] = {{0.375316769, 0.273661524, 0.351021677, 0.336221516, 0.306759894, 0.35701859,
                                 0.35459581, 0.336044282, 0.309359908},
                                {0.893309414, 0.651354909, 0.835483551, 0.851952732, 0.777299881, 0.904650509,
                                 0.914900959, 0.867035747, 0.798186779}};
  const double gradients[2][24] = {
      {-0.00511417631, 0.315680236,    0.185964093,    0.0912326276, 0.0670087039,  0.0686522275,
       -0.00281333923, 0.0145698413,   -0.00626179855, 0.0083079692, 0.0145265944,  0.307701319,
       0.222555026,    0.140050054,    0.0526898131,   0.0506990775, -0.0031559635, 0.0184509624,
       0.0343847796,   -0.00928639341, 0.00452684984,  0.391420633,  0.207046673,   0.103746012},
      {-0.00511417631, 0.32973969,     0.166389346,    0.0912326276, 0.0675882101,  0.0686522275,
       -0.00281333923, 0.0145698413,   -0.00626179855, 0.0083079692, 0.0145265944,  0.297331601,
       0.264656514,    0.145437151,    0.0526898131,   0.0506990775, -0.0031559635, 0.0184509624,
       0.0343847796,   -0.00928639341, 0.00452684984,  0.415943861,  0.208057284,   0.0558322519}};
  for (const bool normalised : {true, false}) {
    const RouterSoftmax order = normalised ? RouterSoftmax::TopkThenSoftmax : RouterSoftmax::SoftmaxThenTopk;
    const Routed r = route(logits, bias, k, order);
    EXPECT_EQ(r.experts.values(), experts);
    for (std::int64_t i = 0; i < T * k; ++i) {
      EXPECT_NEAR(r.weights.get(i), weights[normalised ? 0 : 1][i], 3e-7);
      const std::int64_t d = i / k * 7 + static_cast<std::int64_t>(experts[static_cast<std::size_t>(i)]) * 3;
      set(dweights, i, static_cast<double>(d % 5 - 2) / 4);
    }
    ops->sigmoid_router_backward(*stream, dlogits, dweights, r.probs, r.experts, r.weights, r.lse, logits, scale,
                                 0.125f, order);
    for (std::int64_t i = 0; i < T * E; ++i) EXPECT_NEAR(dlogits.get(i), gradients[normalised ? 0 : 1][i], 1e-6) << i;
  }
}

// s (1 - s) where s is 1 to fp32: the gradient of a score far up keeps its digits.
TEST_F(SigmoidRouter, SaturatedScoresKeepTheirGradient) {
  HostTensor logits(DType::F32, {1, 2}), dweights(DType::F32, {1, 2}), scale(DType::F32, {2}),
      dlogits(DType::F32, {1, 2});
  set(logits, 0, 20);
  set(logits, 1, -20);
  dweights.fill_value(1);
  scale.fill_value(0);
  const Routed r = route(logits, Tensor{}, 2, RouterSoftmax::SoftmaxThenTopk);
  ops->sigmoid_router_backward(*stream, dlogits, dweights, r.probs, r.experts, r.weights, r.lse, logits, scale, 0,
                               RouterSoftmax::SoftmaxThenTopk);
  const double want = sigmoid(20) * sigmoid(-20);
  EXPECT_NEAR(dlogits.get(0), want, 1e-6 * want);
  EXPECT_NEAR(dlogits.get(1), want, 1e-6 * want);
}

// Copies of one MLP: equal dweights must give exactly zero, or Adam turns rounding noise into full steps.
TEST_F(SigmoidRouter, EqualGradientsGiveExactlyZero) {
  const HostTensor logits = random_tensor(DType::F32, {40, 8}, "logits", 2);
  HostTensor dweights(DType::F32, {40, 3}), scale(DType::F32, {8}), dlogits(DType::F32, {40, 8});
  for (std::int64_t i = 0; i < 120; ++i) set(dweights, i, 0.1 + static_cast<double>(i / 3));
  for (std::int64_t e = 0; e < 8; ++e) set(scale, e, 0.3);
  const Routed r = route(logits, Tensor{}, 3, kOrders[0]);
  ops->sigmoid_router_backward(*stream, dlogits, dweights, r.probs, r.experts, r.weights, r.lse, logits, scale, 0,
                               kOrders[0]);
  for (const double d : dlogits.values()) EXPECT_EQ(d, 0);
}

TEST_F(SigmoidRouter, NoTokensWork) {
  for (const RouterSoftmax order : kOrders) {
    const HostTensor logits(DType::F32, {0, 4}), dweights(DType::F32, {0, 2}), dlogits(DType::F32, {0, 4});
    const Routed r = route(logits, Tensor{}, 2, order);
    const HostTensor scale(DType::F32, {4});
    ops->sigmoid_router_weights(*stream, r.probs, r.weights, r.lse, logits, r.experts, order);
    ops->sigmoid_router_backward(*stream, dlogits, dweights, r.probs, r.experts, r.weights, r.lse, logits, scale, 1,
                                 order);
  }
}

TEST_F(SigmoidRouter, SameBitsTwiceAndOnAnyNumberOfThreads) {
  const std::int64_t T = 1001, E = 24, k = 5;
  const HostTensor logits = random_tensor(DType::F32, {T, E}, "logits", 2);
  const HostTensor bias = random_tensor(DType::F32, {E}, "bias", 0.3);
  const HostTensor dweights = random_tensor(DType::F32, {T, k}, "dweights"),
                   scale = random_tensor(DType::F32, {E}, "s");
  for (const RouterSoftmax order : kOrders) {
    std::vector<std::vector<HostTensor>> runs;
    for (const int threads : {1, 1, 2, 3}) {
      const ThreadCount count(threads);
      const Routed r = route(logits, bias, k, order);
      HostTensor dlogits(DType::F32, {T, E});
      ops->sigmoid_router_backward(*stream, dlogits, dweights, r.probs, r.experts, r.weights, r.lse, logits, scale,
                                   0.1f, order);
      runs.push_back({r.probs, r.experts, r.weights, r.lse, dlogits});
    }
    for (std::size_t run = 1; run < runs.size(); ++run)
      for (std::size_t i = 0; i < runs[0].size(); ++i)
        EXPECT_TRUE(same_bits(runs[run][i], runs[0][i])) << run << " " << i;
  }
}

TEST_F(SigmoidRouter, BadArgumentsThrow) {
  const HostTensor logits = random_tensor(DType::F32, {3, 4}, "logits"), short_bias(DType::F32, {3}),
                   wrong_type(DType::BF16, {4});
  EXPECT_THROW(route(logits, Tensor{}, 5, kOrders[0]), Error);
  EXPECT_THROW(route(logits, short_bias, 2, kOrders[0]), Error);
  EXPECT_THROW(route(logits, wrong_type, 2, kOrders[0]), Error);
  if (device->kind() != DeviceKind::Cpu) return;  // only the host can throw for what it reads
  Routed r(3, 4, 2);
  set(r.experts, 1, 4);
  EXPECT_THROW(ops->sigmoid_router_weights(*stream, r.probs, r.weights, r.lse, logits, r.experts, kOrders[0]), Error);
}

}  // namespace
}  // namespace upcycle
