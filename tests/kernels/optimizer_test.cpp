#include <cmath>

#include "core/error.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

struct OptimizerTest : OpTest {
  HostTensor one{DType::F32, {1}};
  OptimizerTest() { set(one, 0, 1); }
};

// Loshchilov and Hutter's algorithm 2 as PyTorch arranges it, in fp64.
struct Reference {
  std::vector<double> p, m, v;
  explicit Reference(const std::vector<double>& start) : p(start), m(start.size()), v(start.size()) {}
  void step(const std::vector<double>& grad, double scale, const AdamwStep& s) {
    const double b1 = s.beta1, b2 = s.beta2, t = static_cast<double>(s.step), lr = s.lr;
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double g = grad[i] * scale;
      p[i] *= 1 - lr * static_cast<double>(s.weight_decay);
      m[i] = b1 * m[i] + (1 - b1) * g;
      v[i] = b2 * v[i] + (1 - b2) * g * g;
      const double m_hat = m[i] / (1 - std::pow(b1, t)), v_hat = v[i] / (1 - std::pow(b2, t));
      p[i] -= lr * m_hat / (std::sqrt(v_hat) + static_cast<double>(s.eps));
    }
  }
};

struct AdamState {
  HostTensor master, m, v;
  explicit AdamState(std::int64_t n)
      : master(random_tensor(DType::F32, {n}, "master")), m(DType::F32, {n}), v(DType::F32, {n}) {}
};

TEST_F(OptimizerTest, AdamwFollowsTheReferenceForFiveSteps) {
  for (const std::int64_t n : {0, 1, 37, 20011})
    for (const double decay : {0.0, 0.1})
      for (const double clip : {1.0, 0.37})
        for (const float beta2 : {0.95f, 0.999f}) {
          AdamState a(n);
          HostTensor param(DType::BF16, {n}), scale(DType::F32, {1});
          set(scale, 0, clip);
          Reference want(a.master.values());
          for (std::int64_t step = 1; step <= 5; ++step) {
            const HostTensor grad = random_tensor(DType::F32, {n}, "grad" + std::to_string(step), 0.02);
            const AdamwStep s{1e-2f, 0.9f, beta2, 1e-8f, static_cast<float>(decay), step};
            ops->adamw(*stream, {param, a.master, a.m, a.v, grad}, scale, s);
            want.step(grad.values(), scale.get(0), s);
          }
          for (std::int64_t i = 0; i < n; ++i) {
            const auto u = static_cast<std::size_t>(i);
            ASSERT_NEAR(a.master.get(i), want.p[u], 5e-7 * (1 + std::abs(want.p[u]))) << i;
            ASSERT_NEAR(a.m.get(i), want.m[u], 1e-6 * std::abs(want.m[u]) + 1e-9);
            ASSERT_NEAR(a.v.get(i), want.v[u], 1e-6 * want.v[u]);
            ASSERT_EQ(param.as<bf16>()[i].bits, to_bf16(a.master.as<float>()[i]).bits);
          }
        }
}

// The first step moves every weight by lr * sign(g), whatever the size of g: the bias correction undoes 1 - beta.
TEST_F(OptimizerTest, FirstStepIsBiasCorrected) {
  AdamState a(4);
  HostTensor grad(DType::F32, {4});
  const double g[4] = {1e-4, -1e-2, 3, -100};
  for (std::int64_t i = 0; i < 4; ++i) set(grad, i, g[i]);
  const auto before = a.master.values();
  ops->adamw(*stream, {a.master, a.master, a.m, a.v, grad}, one, {0.5f, 0.9f, 0.999f, 1e-12f, 0, 1});
  for (std::int64_t i = 0; i < 4; ++i)
    EXPECT_NEAR(a.master.get(i) - before[static_cast<std::size_t>(i)], g[i] > 0 ? -0.5 : 0.5, 2e-6);
}

TEST_F(OptimizerTest, ManyStepsInDoNotLoseTheCorrection) {
  AdamState a(1);
  set(a.m, 0, 0.5);
  set(a.v, 0, 0.25);
  set(a.master, 0, 0);
  HostTensor grad(DType::F32, {1});
  set(grad, 0, 0.5);
  ops->adamw(*stream, {a.master, a.master, a.m, a.v, grad}, one, {1, 0.9f, 0.999f, 0, 0, 1'000'000'000});
  EXPECT_NEAR(a.master.get(0), -1, 1e-6);
}

TEST_F(OptimizerTest, ZeroGradientOnlyDecays) {
  AdamState a(100);
  const HostTensor grad(DType::F32, {100}), before = copy_of(a.master);
  ops->adamw(*stream, {a.master, a.master, a.m, a.v, grad}, one, {0.1f, 0.9f, 0.95f, 1e-8f, 0.5f, 1});
  for (std::int64_t i = 0; i < 100; ++i)
    EXPECT_NEAR(a.master.get(i), 0.95 * before.get(i), 0x1p-23 * std::abs(before.get(i)));
  ops->adamw(*stream, {a.master, a.master, a.m, a.v, grad}, one, {0.1f, 0.9f, 0.95f, 1e-8f, 0, 2});
  for (const double m : a.m.values()) EXPECT_EQ(m, 0);
}

TEST_F(OptimizerTest, ParamMayBeTheMaster) {
  AdamState apart(5000), same(5000);
  HostTensor param(DType::F32, {5000});
  for (std::int64_t step = 1; step <= 3; ++step) {
    const HostTensor grad = random_tensor(DType::F32, {5000}, "grad" + std::to_string(step));
    const AdamwStep s{1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, step};
    ops->adamw(*stream, {param, apart.master, apart.m, apart.v, grad}, one, s);
    ops->adamw(*stream, {same.master, same.master, same.m, same.v, grad}, one, s);
  }
  EXPECT_TRUE(same_bits(param, same.master) && same_bits(apart.master, same.master) && same_bits(apart.v, same.v));
}

TEST_F(OptimizerTest, ThreadsDoNotShow) {
  std::vector<AdamState> runs;
  std::vector<HostTensor> params;
  for (const int threads : {1, 2, 3}) {
    const ThreadCount count(threads);
    AdamState a(70003);
    HostTensor param(DType::BF16, {70003});
    for (std::int64_t step = 1; step <= 2; ++step)
      ops->adamw(*stream, {param, a.master, a.m, a.v, random_tensor(DType::F32, {70003}, "grad")}, one,
                 {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, step});
    runs.push_back(a);
    params.push_back(param);
  }
  for (std::size_t i = 1; i < runs.size(); ++i)
    EXPECT_TRUE(same_bits(runs[i].master, runs[0].master) && same_bits(runs[i].m, runs[0].m) &&
                same_bits(runs[i].v, runs[0].v) && same_bits(params[i], params[0]));
}

// ZeRO: an element's update must not depend on where its shard begins.
TEST_F(OptimizerTest, ShardsGiveTheSameBitsAsTheWhole) {
  const std::int64_t n = 30007;
  AdamState whole(n), cut(n);
  const HostTensor grad = random_tensor(DType::F32, {n}, "grad");
  const AdamwStep s{1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1};
  ops->adamw(*stream, {whole.master, whole.master, whole.m, whole.v, grad}, one, s);
  for (const auto& [b, e] : {std::pair<std::int64_t, std::int64_t>{0, 13}, {13, 10001}, {10001, n}})
    ops->adamw(*stream,
               {cut.master.slice_rows(b, e), cut.master.slice_rows(b, e), cut.m.slice_rows(b, e),
                cut.v.slice_rows(b, e), grad.slice_rows(b, e)},
               one, s);
  EXPECT_TRUE(same_bits(cut.master, whole.master) && same_bits(cut.m, whole.m) && same_bits(cut.v, whole.v));
}

// Every number is exact: beta1 1/2, beta2 3/4, decay 1 - 1/4 * 1/2, and g is half of grad.
TEST_F(OptimizerTest, LionByHand) {
  HostTensor master(DType::F32, {6}), m(DType::F32, {6}), grad(DType::F32, {6}), scale(DType::F32, {1});
  const double w[6] = {1, 1, 1, 1, 1, -2}, moment[6] = {0, 2, -4, 1, 0, -4}, gradient[6] = {4, 4, 4, -2, 0, 0};
  for (std::int64_t i = 0; i < 6; ++i) {
    set(master, i, w[i]);
    set(m, i, moment[i]);
    set(grad, i, gradient[i]);
  }
  set(scale, 0, 0.5);
  ops->lion(*stream, {master, master, m, {}, grad}, scale, {0.25f, 0.5f, 0.75f, 0.5f});
  // Directions 1, 2, -1, 0 (moment and gradient cancel), 0 (neither is there), -2.
  EXPECT_EQ(master.values(), (std::vector<double>{0.625, 0.625, 1.125, 0.875, 0.875, -1.5}));
  EXPECT_EQ(m.values(), (std::vector<double>{0.5, 2, -2.5, 0.5, 0, -3}));
}

// Each step in fp64 from the state that the one before left. Where moment and gradient all but cancel, rounding decides
// the sign, and either is right.
TEST_F(OptimizerTest, LionFollowsTheFormulaForFiveSteps) {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const std::int64_t n : {0, 1, 37, 20011})
      for (const double decay : {0.0, 0.5})
        for (const double clip : {1.0, 0.37}) {
          HostTensor master = random_tensor(DType::F32, {n}, "master"), m(DType::F32, {n}), param(dtype, {n}),
                     scale(DType::F32, {1});
          set(scale, 0, clip);
          const LionStep s{1e-2f, 0.9f, 0.99f, static_cast<float>(decay)};
          const double lr = s.lr, b1 = s.beta1, b2 = s.beta2;
          std::int64_t undecided = 0;
          for (int step = 1; step <= 5; ++step) {
            const std::vector<double> w = master.values(), moment = m.values();
            const HostTensor grad = random_tensor(DType::F32, {n}, "grad" + std::to_string(step), 0.02);
            ops->lion(*stream, {param, master, m, {}, grad}, scale, s);
            for (std::int64_t i = 0; i < n; ++i) {
              const auto u = static_cast<std::size_t>(i);
              const double old = b1 * moment[u], fresh = (1 - b1) * scale.get(0) * grad.get(i), c = old + fresh;
              const double kept = w[u] * (1 - lr * decay);
              const bool decided = std::abs(c) > 1e-6 * (std::abs(old) + std::abs(fresh));
              undecided += decided ? 0 : 1;
              const double want = kept - (decided ? std::copysign(lr, c) : std::copysign(lr, kept - master.get(i)));
              ASSERT_NEAR(master.get(i), want, 2e-7 * (1 + std::abs(want))) << "step " << step << " at " << i;
              const double next = b2 * moment[u] + (1 - b2) * scale.get(0) * grad.get(i);
              ASSERT_NEAR(m.get(i), next, 1e-6 * (std::abs(moment[u]) + std::abs(next)) + 1e-9);
              ASSERT_EQ(param.get(i), dtype == DType::F32 ? master.get(i) : to_float(to_bf16(master.as<float>()[i])));
            }
          }
          EXPECT_LE(undecided, 5);
        }
}

TEST_F(OptimizerTest, LionsThreadsAndShardsDoNotShow) {
  const std::int64_t n = 70003;
  const HostTensor start = random_tensor(DType::F32, {n}, "master"), grad = random_tensor(DType::F32, {n}, "grad");
  const LionStep s{1e-3f, 0.9f, 0.99f, 0.1f};
  struct State {
    HostTensor master, m, param;
  };
  const auto fresh = [&] {
    return State{copy_of(start), random_tensor(DType::F32, {n}, "m"), HostTensor(DType::BF16, {n})};
  };
  const auto lion = [&](const State& x, std::int64_t b, std::int64_t e) {
    ops->lion(*stream,
              {x.param.slice_rows(b, e), x.master.slice_rows(b, e), x.m.slice_rows(b, e), {}, grad.slice_rows(b, e)},
              one, s);
  };
  const auto expect_same = [](const State& a, const State& b) {
    EXPECT_TRUE(same_bits(a.master, b.master) && same_bits(a.m, b.m) && same_bits(a.param, b.param));
  };
  const State whole = fresh();
  lion(whole, 0, n);
  for (const int threads : {1, 3}) {
    const ThreadCount count(threads);
    const State again = fresh(), cut = fresh();
    lion(again, 0, n);
    for (const auto& [b, e] : {std::pair<std::int64_t, std::int64_t>{0, 13}, {13, 10001}, {10001, n}}) lion(cut, b, e);
    expect_same(again, whole);
    expect_same(cut, whole);
  }
  const State in_place = fresh();
  ops->lion(*stream, {in_place.master, in_place.master, in_place.m, {}, grad}, one, s);
  EXPECT_TRUE(same_bits(in_place.master, whole.master) && same_bits(in_place.m, whole.m));
}

TEST_F(OptimizerTest, SgdFollowsTheReference) {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const std::int64_t n : {0, 1, 20011}) {
      HostTensor master = random_tensor(DType::F32, {n}, "master"), param(dtype, {n}), scale(DType::F32, {1});
      const HostTensor before = copy_of(master), grad = random_tensor(DType::F32, {n}, "grad");
      set(scale, 0, 0.5);
      ops->sgd(*stream, {param, master, {}, {}, grad}, scale, 0.1f, 0.2f);
      for (std::int64_t i = 0; i < n; ++i) {
        const double want = before.get(i) * (1 - 0.1 * 0.2) - 0.1 * 0.5 * grad.get(i);
        ASSERT_NEAR(master.get(i), want, 2e-7 * (1 + std::abs(want)));
        ASSERT_EQ(param.get(i), dtype == DType::F32 ? master.get(i) : to_float(to_bf16(master.as<float>()[i])));
      }
    }
}

TEST_F(OptimizerTest, ArgumentsAreChecked) {
  AdamState a(4);
  const HostTensor grad(DType::F32, {4}), five(DType::F32, {5}), ints(DType::I32, {4});
  const AdamwStep s{1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1};
  AdamwStep zero = s;
  zero.step = 0;
  EXPECT_THROW(ops->adamw(*stream, {a.master, a.master, a.m, a.v, grad}, one, zero), Error);
  EXPECT_THROW(ops->adamw(*stream, {a.master, a.master, a.m, a.v, five}, one, s), Error);
  EXPECT_THROW(ops->adamw(*stream, {ints, a.master, a.m, a.v, grad}, one, s), Error);
  EXPECT_THROW(ops->lion(*stream, {a.master, a.master, five, {}, grad}, one, {1, 0.9f, 0.99f, 0}), Error);
  EXPECT_THROW(ops->lion(*stream, {ints, a.master, a.m, {}, grad}, one, {1, 0.9f, 0.99f, 0}), Error);
  EXPECT_THROW(ops->lion(*stream, {a.master, a.master, a.m, {}, grad}, one, {1, 0.9f, 1, 0}), Error);
  EXPECT_THROW(ops->sgd(*stream, {a.master, a.master, {}, {}, five}, one, 1, 0), Error);
  EXPECT_THROW(ops->sgd(*stream, {a.master, a.master, {}, {}, grad}, five, 1, 0), Error);
}

}  // namespace
}  // namespace upcycle
