#include <cmath>
#include <utility>

#include "core/error.h"
#include "tests/kernels/differences.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

using testing::relative_l2;

constexpr double kEps = 1e-5;
constexpr NormWeight kWeights[] = {NormWeight::Plain, NormWeight::UnitOffset};

// What a norm of this kind multiplies by.
Values factors(NormWeight kind, Values weight) {
  if (kind == NormWeight::UnitOffset)
    for (double& w : weight) w += 1;
  return weight;
}

struct Reference {
  Values out, rstd, sum;
};

Reference forward_reference(const Values& x, const Values& delta, const Values& weight) {
  const std::size_t H = weight.size(), T = x.size() / H;
  Reference r{Values(x.size()), Values(T), x};
  for (std::size_t i = 0; i < delta.size(); ++i) r.sum[i] += delta[i];
  for (std::size_t t = 0; t < T; ++t) {
    double squares = 0;
    for (std::size_t h = 0; h < H; ++h) squares += r.sum[t * H + h] * r.sum[t * H + h];
    r.rstd[t] = 1 / std::sqrt(squares / static_cast<double>(H) + kEps);
    for (std::size_t h = 0; h < H; ++h) r.out[t * H + h] = r.sum[t * H + h] * r.rstd[t] * weight[h];
  }
  return r;
}

// The loss of the finite differences: sum of out * dout.
double loss(const Values& x, const Values& weight, const Values& dout) {
  const Values out = forward_reference(x, {}, weight).out;
  double sum = 0;
  for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * dout[i];
  return sum;
}

struct RmsNormTest : ::testing::WithParamInterface<NormWeight>, OpTest {
  Workspace workspace(std::int64_t H) {
    OpLimits limits;
    limits.H = H;
    return workspace_for(limits);
  }
};

TEST_P(RmsNormTest, ForwardEqualsTheReference) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const auto& [T, H] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {5, 43}, {700, 64}, {33, 512}, {0, 8}}) {
      for (const bool with_delta : {false, true}) {
        SCOPED_TRACE(fmt::format("{} T {} H {} delta {}", name_of(dtype), T, H, with_delta));
        const HostTensor x = random_tensor(dtype, {T, H}, "x"), delta = random_tensor(dtype, {T, H}, "delta"),
                         weight = random_tensor(dtype, {H}, "weight");
        testing::HostTensor out(dtype, {T, H}, 3), sum(dtype, {T, H}, 5);
        const HostTensor rstd(DType::F32, {T});
        const Tensor none;
        ops->rms_norm_forward(*stream, out, rstd, with_delta ? Tensor(sum) : none, x, with_delta ? Tensor(delta) : none,
                              weight, kEps, GetParam());
        const Values factor = factors(GetParam(), weight.values());
        Reference expected = forward_reference(x.values(), with_delta ? delta.values() : Values{}, factor);
        if (with_delta) {
          // Half a unit in the last of bf16's 8 places, relative.
          for (std::int64_t i = 0; i < sum.size(); ++i) {
            const double s = expected.sum[static_cast<std::size_t>(i)];
            ASSERT_NEAR(sum.get(i), s, std::abs(s) * (dtype == DType::BF16 ? 0x1p-8 : 0x1p-23));
          }
          expected = forward_reference(sum.values(), {}, factor);  // the norm is of the rounded sum
        }
        for (std::int64_t i = 0; i < out.size(); ++i) {
          const double o = expected.out[static_cast<std::size_t>(i)];
          ASSERT_NEAR(out.get(i), o, std::abs(o) * (dtype == DType::BF16 ? 0x1.02p-8 : 1e-6)) << i;
        }
        EXPECT_LT(relative_l2(rstd.values(), expected.rstd), 1e-6);
        EXPECT_TRUE(out.gaps_untouched());
        EXPECT_TRUE(sum.gaps_untouched());
      }
    }
  }
}

TEST_P(RmsNormTest, SumMayBeTheInput) {
  const HostTensor x = random_tensor(DType::F32, {9, 65}, "x"), delta = random_tensor(DType::F32, {9, 65}, "delta"),
                   weight = random_tensor(DType::F32, {65}, "weight");
  const HostTensor out(DType::F32, {9, 65}), sum(DType::F32, {9, 65}), rstd(DType::F32, {9}),
      out_2(DType::F32, {9, 65});
  ops->rms_norm_forward(*stream, out, rstd, sum, x, delta, weight, kEps, GetParam());
  ops->rms_norm_forward(*stream, out_2, rstd, x, x, delta, weight, kEps, GetParam());
  EXPECT_TRUE(same_bits(out, out_2));
  EXPECT_TRUE(same_bits(sum, x));
}

TEST_P(RmsNormTest, BackwardAddsFiniteDifferences) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const std::int64_t T = 7, H = 19;
    const HostTensor x = random_tensor(dtype, {T, H}, "x"), weight = random_tensor(dtype, {H}, "weight"),
                     dout = random_tensor(dtype, {T, H}, "dout"), dx = random_tensor(dtype, {T, H}, "dx"),
                     dweight = random_tensor(DType::F32, {H}, "dweight"), out(dtype, {T, H}), rstd(DType::F32, {T});
    ops->rms_norm_forward(*stream, out, rstd, {}, x, {}, weight, kEps, GetParam());
    const Values factor = factors(GetParam(), weight.values());
    Values dx_expected = dx.values(), dweight_expected = dweight.values();
    const Values through_x = differences(x.values(), [&](const Values& v) { return loss(v, factor, dout.values()); });
    const Values through_weight =
        differences(factor, [&](const Values& v) { return loss(x.values(), v, dout.values()); });
    for (std::size_t i = 0; i < dx_expected.size(); ++i) dx_expected[i] += through_x[i];
    for (std::size_t i = 0; i < dweight_expected.size(); ++i) dweight_expected[i] += through_weight[i];
    ops->rms_norm_backward(*stream, workspace(H), dx, dweight, dout, x, weight, rstd, GetParam());
    // dx is rounded once, to its own type; dweight is fp32 in both.
    EXPECT_LT(relative_l2(dx.values(), dx_expected), dtype == DType::F32 ? 1e-6 : 0x1p-9);
    EXPECT_LT(relative_l2(dweight.values(), dweight_expected), 1e-6);
  }
}

TEST_P(RmsNormTest, BackwardRepeatsItsBitsAndAgreesAcrossThreads) {
  const std::int64_t T = 501, H = 128;
  const HostTensor x = random_tensor(DType::BF16, {T, H}, "x"), weight = random_tensor(DType::BF16, {H}, "weight"),
                   dout = random_tensor(DType::BF16, {T, H}, "dout"), rstd = random_tensor(DType::F32, {T}, "rstd");
  const auto run = [&](int n) {
    const ThreadCount threads(n);
    const HostTensor dx(DType::BF16, {T, H}), dweight(DType::F32, {H});
    ops->rms_norm_backward(*stream, workspace(H), dx, dweight, dout, x, weight, rstd, GetParam());
    return std::pair(dx, dweight);
  };
  const auto [dx, dweight] = run(1);
  for (const int n : {1, 2, 3}) {
    const auto [dx_n, dweight_n] = run(n);
    EXPECT_TRUE(same_bits(dx_n, dx)) << n;
    EXPECT_LT(relative_l2(dweight_n.values(), dweight.values()), 1e-6) << n;
    EXPECT_TRUE(same_bits(run(n).second, dweight_n)) << n;
  }
}

TEST_P(RmsNormTest, RefusesWhatDoesNotFit) {
  const HostTensor x(DType::F32, {4, 8}), narrow(DType::F32, {4, 7}), half(DType::BF16, {4, 8}), rstd(DType::F32, {4}),
      weight(DType::F32, {8});
  EXPECT_THROW(ops->rms_norm_forward(*stream, narrow, rstd, {}, x, {}, weight, kEps), Error);
  EXPECT_THROW(ops->rms_norm_forward(*stream, half, rstd, {}, x, {}, weight, kEps), Error);
  EXPECT_THROW(ops->rms_norm_forward(*stream, x, rstd, {}, x, x, weight, kEps), Error);  // delta without a sum
  EXPECT_THROW(ops->rms_norm_backward(*stream, {}, x, weight, x, x, weight, rstd), Error);
}

// A plain weight is multiplied as it is: an addition of 0 would make a positive 0 of a negative one.
TEST_P(RmsNormTest, KeepsTheSignOfAZeroWeight) {
  const HostTensor x(DType::F32, {1, 2}), weight(DType::F32, {2}), out(DType::F32, {1, 2}), rstd(DType::F32, {1});
  set(x, 0, 2);
  set(x, 1, 2);
  set(weight, 0, -0.0);
  ops->rms_norm_forward(*stream, out, rstd, {}, x, {}, weight, kEps, GetParam());
  const bool plain = GetParam() == NormWeight::Plain;
  EXPECT_NEAR(out.get(0), plain ? 0 : 1, 1e-5);
  EXPECT_EQ(std::signbit(out.get(0)), plain);
  EXPECT_FALSE(std::signbit(out.get(1)));
}

INSTANTIATE_TEST_SUITE_P(Weights, RmsNormTest, ::testing::ValuesIn(kWeights),
                         [](const auto& p) { return p.param == NormWeight::Plain ? "Plain" : "UnitOffset"; });

}  // namespace
}  // namespace upcycle
