#include <cmath>
#include <utility>

#include "core/error.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

constexpr GateActivation kActivations[] = {GateActivation::Silu, GateActivation::GeluTanh};

double activation(GateActivation a, double x) {
  if (a == GateActivation::Silu) return x / (1 + std::exp(-x));
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

// In the tail of GELU, below 1e-7, rounding is amplified by an exponent that is cubic in x.
double tail(GateActivation a) { return a == GateActivation::Silu ? 0 : 1e-7; }

struct SwigluTest : ::testing::WithParamInterface<GateActivation>, OpTest {};

TEST_P(SwigluTest, ForwardEqualsTheReference) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const auto& [T, F] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {7, 43}, {300, 172}, {0, 4}}) {
      SCOPED_TRACE(fmt::format("{} T {} F {}", name_of(dtype), T, F));
      testing::HostTensor gate_up(dtype, {T, 2 * F}, 3), out(dtype, {T, F}, 2);
      gate_up.fill_normal("gate_up", 4);
      ops->swiglu_forward(*stream, out, gate_up, GetParam());
      for (std::int64_t t = 0; t < T; ++t) {
        for (std::int64_t f = 0; f < F; ++f) {
          const double up = gate_up.get(t, F + f), expected = activation(GetParam(), gate_up.get(t, f)) * up;
          ASSERT_NEAR(out.get(t, f), expected,
                      std::abs(expected) * (dtype == DType::F32 ? 1e-6 : 0x1.02p-8) + tail(GetParam()) * std::abs(up));
        }
      }
      EXPECT_TRUE(out.gaps_untouched());
    }
  }
}

TEST_P(SwigluTest, BackwardEqualsFiniteDifferences) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const std::int64_t T = 70, F = 37;
    testing::HostTensor gate_up(dtype, {T, 2 * F}, 1), dout(dtype, {T, F}, 3), dgate_up(dtype, {T, 2 * F}, 5);
    gate_up.fill_normal("gate_up", 4);
    dout.fill_normal("dout");
    dgate_up.fill_normal("overwritten");
    ops->swiglu_backward(*stream, dgate_up, dout, gate_up, GetParam());
    for (std::int64_t t = 0; t < T; ++t) {
      for (std::int64_t f = 0; f < F; ++f) {
        const double gate = gate_up.get(t, f), up = gate_up.get(t, F + f), d = dout.get(t, f), eps = 1e-4;
        const double slope = (activation(GetParam(), gate + eps) - activation(GetParam(), gate - eps)) / (2 * eps);
        const double act = activation(GetParam(), gate);
        const double rounding = dtype == DType::F32 ? 1e-6 : 0x1.02p-8;
        // The slope has a zero (silu's near -1.28), where 1 + gate * (1 - sigmoid) cancels: hence the absolute part.
        ASSERT_NEAR(dgate_up.get(t, f), d * up * slope, std::abs(d * up * slope) * rounding + std::abs(d * up) * 1e-6);
        ASSERT_NEAR(dgate_up.get(t, F + f), d * act, std::abs(d * act) * rounding + tail(GetParam()) * std::abs(d));
      }
    }
    EXPECT_TRUE(dgate_up.gaps_untouched());
  }
}

TEST_P(SwigluTest, ExtremeGatesStayFinite) {
  const HostTensor gate_up(DType::F32, {1, 8}), out(DType::F32, {1, 4}), dgate_up(DType::F32, {1, 8}),
      dout(DType::F32, {1, 4});
  const double gates[] = {-1e4, -100, 100, 1e4}, values[] = {0, 0, 100, 1e4}, slopes[] = {0, 0, 1, 1};
  for (int i = 0; i < 4; ++i) {
    set(gate_up, i, gates[i]);
    set(gate_up, 4 + i, 2);
    set(dout, i, 1);
  }
  ops->swiglu_forward(*stream, out, gate_up, GetParam());
  ops->swiglu_backward(*stream, dgate_up, dout, gate_up, GetParam());
  // What is left of e^-80 times the gate, and of GELU's slope times the slope of its exponent.
  const double none = GetParam() == GateActivation::Silu ? 1e-30 : 1e-28;
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(out.get(i), 2 * values[i], 1e-30) << gates[i];
    EXPECT_NEAR(dgate_up.get(i), 2 * slopes[i], none) << gates[i];
    EXPECT_NEAR(dgate_up.get(4 + i), values[i], 1e-30) << gates[i];
  }
}

TEST_P(SwigluTest, NotANumberIsNotHidden) {
  const HostTensor gate_up(DType::F32, {1, 2}), out(DType::F32, {1, 1}), d(DType::F32, {1, 2}),
      dout(DType::F32, {1, 1});
  set(gate_up, 0, std::nan(""));
  set(gate_up, 1, 2);
  set(dout, 0, 1);
  ops->swiglu_forward(*stream, out, gate_up, GetParam());
  ops->swiglu_backward(*stream, d, dout, gate_up, GetParam());
  EXPECT_TRUE(std::isnan(out.get(0)) && std::isnan(d.get(0)) && std::isnan(d.get(1)));
}

TEST_P(SwigluTest, GradientMayOverwriteItsInput) {
  const HostTensor gate_up = random_tensor(DType::BF16, {9, 2 * 50}, "gate_up"), d(DType::BF16, {9, 2 * 50}),
                   dout = random_tensor(DType::BF16, {9, 50}, "dout");
  ops->swiglu_backward(*stream, d, dout, gate_up, GetParam());
  ops->swiglu_backward(*stream, gate_up, dout, gate_up, GetParam());
  EXPECT_TRUE(same_bits(gate_up, d));
}

TEST_P(SwigluTest, SameBitsForEveryThreadCount) {
  const HostTensor gate_up = random_tensor(DType::F32, {400, 2 * 172}, "gate_up"),
                   dout = random_tensor(DType::F32, {400, 172}, "dout");
  const auto run = [&](int n) {
    const ThreadCount threads(n);
    const HostTensor out(DType::F32, {400, 172}), d(DType::F32, {400, 2 * 172});
    ops->swiglu_forward(*stream, out, gate_up, GetParam());
    ops->swiglu_backward(*stream, d, dout, gate_up, GetParam());
    return std::pair(out, d);
  };
  const auto [out, d] = run(1);
  for (const int n : {1, 2, 5}) {
    const auto [out_n, d_n] = run(n);
    EXPECT_TRUE(same_bits(out_n, out)) << n;
    EXPECT_TRUE(same_bits(d_n, d)) << n;
  }
}

TEST_P(SwigluTest, RefusesWhatDoesNotFit) {
  const HostTensor out(DType::F32, {4, 8}), gate_up(DType::F32, {4, 16}), narrow(DType::F32, {4, 15}),
      half(DType::BF16, {4, 16});
  EXPECT_THROW(ops->swiglu_forward(*stream, out, narrow), Error);
  EXPECT_THROW(ops->swiglu_forward(*stream, out, half), Error);
  EXPECT_THROW(ops->swiglu_backward(*stream, narrow, out, gate_up), Error);
  EXPECT_THROW(ops->swiglu_backward(*stream, half, out, gate_up), Error);
}

// Gates far beyond those whose square fp32 holds: GELU's exponent is cubic in them.
TEST_P(SwigluTest, TheLargestGatesStayFinite) {
  const HostTensor gate_up(DType::F32, {1, 4}), out(DType::F32, {1, 2}), d(DType::F32, {1, 4}),
      dout(DType::F32, {1, 2});
  for (int i = 0; i < 2; ++i) {
    set(gate_up, i, i == 0 ? -1e25 : 1e25);
    set(gate_up, 2 + i, 1);
    set(dout, i, 1);
  }
  ops->swiglu_forward(*stream, out, gate_up, GetParam());
  ops->swiglu_backward(*stream, d, dout, gate_up, GetParam());
  EXPECT_NEAR(out.get(0), 0, 1e-8);
  EXPECT_FLOAT_EQ(static_cast<float>(out.get(1)), 1e25f);
  EXPECT_NEAR(d.get(0), 0, 1e-7);
  EXPECT_EQ(d.get(1), 1);
}

INSTANTIATE_TEST_SUITE_P(Activations, SwigluTest, ::testing::ValuesIn(kActivations),
                         [](const auto& p) { return p.param == GateActivation::Silu ? "Silu" : "GeluTanh"; });

}  // namespace
}  // namespace upcycle
