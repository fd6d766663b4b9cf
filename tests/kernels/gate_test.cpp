#include <cmath>
#include <utility>

#include "core/error.h"
#include "tests/kernels/differences.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

using testing::relative_l2;

double dot(const double* a, const double* b, std::size_t n) {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

Values gated(const Values& rows, const Values& x, const Values& weight) {
  const std::size_t H = weight.size(), T = x.size() / H, F = rows.size() / T;
  Values out(rows);
  for (std::size_t t = 0; t < T; ++t)
    for (std::size_t f = 0; f < F; ++f) out[t * F + f] /= 1 + std::exp(-dot(&x[t * H], weight.data(), H));
  return out;
}

struct GateTest : OpTest {
  Workspace workspace(std::int64_t H) {
    OpLimits limits;
    limits.H = H;
    return workspace_for(limits);
  }
};

TEST_F(GateTest, ForwardEqualsTheReference) {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const auto& [T, F, H] :
         {std::array<std::int64_t, 3>{1, 1, 1}, {5, 43, 19}, {300, 64, 8}, {3, 600, 700}, {0, 8, 8}, {4, 0, 8}}) {
      SCOPED_TRACE(fmt::format("{} T {} F {} H {}", name_of(dtype), T, F, H));
      testing::HostTensor rows(dtype, {T, F}, 3);
      const HostTensor values = random_tensor(dtype, {T, F}, "rows"), x = random_tensor(dtype, {T, H}, "x"),
                       weight = random_tensor(dtype, {H}, "weight");
      for (std::int64_t i = 0; i < values.size(); ++i) rows.set(i, values.get(i));
      ops->gate_rows_forward(*stream, rows, x, weight);
      const Values expected = T > 0 ? gated(values.values(), x.values(), weight.values()) : Values{};
      for (std::int64_t i = 0; i < rows.size(); ++i) {
        const double want = expected[static_cast<std::size_t>(i)];
        ASSERT_NEAR(rows.get(i), want, std::abs(want) * (dtype == DType::BF16 ? 0x1.02p-8 : 2e-5)) << i;
      }
      EXPECT_TRUE(rows.gaps_untouched());
    }
}

TEST_F(GateTest, LargeLogitsAreFinite) {
  for (const float z : {-200.0f, 200.0f}) {
    const HostTensor rows(DType::F32, {1, 2}), x(DType::F32, {1, 1}), weight(DType::F32, {1}), d(DType::F32, {1, 2}),
        dlogits(DType::F32, {1});
    for (const std::int64_t i : {0, 1}) set(rows, i, 3), set(d, i, 2);
    set(x, 0, z), set(weight, 0, 1);
    ops->gate_rows_forward(*stream, rows, x, weight);
    EXPECT_EQ(rows.get(0), z < 0 ? 0 : 3);
    ops->gate_rows_backward(*stream, d, dlogits, rows, x, weight);
    EXPECT_EQ(dlogits.get(0), 0);
    EXPECT_EQ(d.get(1), z < 0 ? 0 : 2);
  }
}

TEST_F(GateTest, BackwardEqualsFiniteDifferences) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const std::int64_t T = 7, F = 21, H = 19;
    const HostTensor r = random_tensor(dtype, {T, F}, "rows"), x = random_tensor(dtype, {T, H}, "x"),
                     weight = random_tensor(dtype, {H}, "weight"), drows = random_tensor(dtype, {T, F}, "drows"),
                     dx = random_tensor(dtype, {T, H}, "dx"), dweight = random_tensor(DType::F32, {H}, "dweight"),
                     dlogits(DType::F32, {T});
    const Values values = r.values(), given = drows.values();
    const auto loss = [&](const Values& v, const Values& through, const Values& w) {
      const Values out = gated(v, through, w);
      return dot(out.data(), given.data(), out.size());
    };
    const Values want_rows = differences(values, [&](const Values& v) { return loss(v, x.values(), weight.values()); });
    const Values through_x = differences(x.values(), [&](const Values& v) { return loss(values, v, weight.values()); });
    const Values through_w = differences(weight.values(), [&](const Values& v) { return loss(values, x.values(), v); });
    Values want_dx = dx.values(), want_dweight = dweight.values();
    for (std::size_t i = 0; i < want_dx.size(); ++i) want_dx[i] += through_x[i];
    for (std::size_t i = 0; i < want_dweight.size(); ++i) want_dweight[i] += through_w[i];
    ops->gate_rows_forward(*stream, r, x, weight);
    ops->gate_rows_backward(*stream, drows, dlogits, r, x, weight);
    ops->gate_logits_backward(*stream, workspace(H), dx, dweight, dlogits, x, weight);
    // In bf16 the gated rows have been rounded.
    const double tolerance = dtype == DType::F32 ? 2e-6 : 0x1p-8;
    EXPECT_LT(relative_l2(drows.values(), want_rows), tolerance);
    EXPECT_LT(relative_l2(dx.values(), want_dx), tolerance);
    EXPECT_LT(relative_l2(dweight.values(), want_dweight), tolerance);
  }
}

TEST_F(GateTest, BackwardRepeatsItsBitsAndAgreesAcrossThreads) {
  const std::int64_t T = 501, H = 128;
  const HostTensor x = random_tensor(DType::BF16, {T, H}, "x"), weight = random_tensor(DType::BF16, {H}, "weight"),
                   dlogits = random_tensor(DType::F32, {T}, "dlogits");
  const auto run = [&](int n) {
    const ThreadCount threads(n);
    const HostTensor dx(DType::BF16, {T, H}), dweight(DType::F32, {H});
    ops->gate_logits_backward(*stream, workspace(H), dx, dweight, dlogits, x, weight);
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

TEST_F(GateTest, RefusesWhatDoesNotFit) {
  const HostTensor rows(DType::F32, {4, 8}), x(DType::F32, {4, 6}), half(DType::BF16, {4, 6}),
      short_x(DType::F32, {3, 6}), weight(DType::F32, {6}), dlogits(DType::F32, {4});
  EXPECT_THROW(ops->gate_rows_forward(*stream, rows, half, weight), Error);
  EXPECT_THROW(ops->gate_rows_forward(*stream, rows, short_x, weight), Error);
  EXPECT_THROW(ops->gate_rows_backward(*stream, x, dlogits, rows, x, weight), Error);
  EXPECT_THROW(ops->gate_logits_backward(*stream, {}, x, weight, dlogits, x, weight), Error);
}

}  // namespace
}  // namespace upcycle
