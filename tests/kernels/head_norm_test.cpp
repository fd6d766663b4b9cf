#include <cmath>

#include "tests/kernels/differences.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

using testing::OpBench;
using testing::relative_l2;

constexpr float kEps = 1e-5f;

struct HeadNormTest : OpTest {
  static OpLimits limits(std::int64_t D) {
    OpLimits l;
    l.head_norm = D;
    return l;
  }
};

struct Shape {
  std::int64_t T, heads, D;
  std::string text() const { return fmt::format("T {} heads {} D {}", T, heads, D); }
};
constexpr Shape kShapes[] = {{1, 1, 1}, {5, 3, 43}, {130, 4, 64}, {33, 1, 520}, {0, 2, 8}, {9, 2, 24}};

Values dots_of(const Shape& z, const Values& a, const Values& b, const Values& weight) {
  Values dots(static_cast<std::size_t>(z.T * z.heads));
  for (std::size_t i = 0; i < a.size(); ++i)
    dots[i / static_cast<std::size_t>(z.D)] +=
        a[i] * b[i] * (weight.empty() ? 1 : weight[i % static_cast<std::size_t>(z.D)]);
  return dots;
}

// Norms whose squares are over the head and `rest` more, which x does not have here.
Values normed(const Shape& z, const Values& x, const Values& weight, double rest, std::int64_t width) {
  const Values squares = dots_of(z, x, x, {});
  const auto D = static_cast<std::size_t>(z.D);
  Values out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    out[i] = x[i] * weight[i % D] / std::sqrt((squares[i / D] + rest) / static_cast<double>(width) + kEps);
  return out;
}

TEST_F(HeadNormTest, DotsEqualAPlainLoop) {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Shape& z : kShapes)
      for (const std::int64_t gap : {0, 8, 3}) {
        SCOPED_TRACE(fmt::format("{} {} gap {}", name_of(dtype), z.text(), gap));
        HostTensor a(dtype, {z.T, z.heads * z.D}, gap), b(dtype, {z.T, z.heads * z.D});
        a.fill_normal("a");
        b.fill_normal("b");
        const HostTensor weight = random_tensor(dtype, {z.D}, "weight"), dots(DType::F32, {z.T, z.heads});
        ops->head_dots(*stream, dots, a, b, weight);
        // Of a sum near zero only the terms' size says how exact it is.
        const double scale = std::sqrt(static_cast<double>(z.D));
        const auto expect_near = [&](const Values& expected) {
          for (std::size_t i = 0; i < expected.size(); ++i)
            ASSERT_NEAR(dots.get(static_cast<std::int64_t>(i)), expected[i], 1e-6 * (scale + std::abs(expected[i])));
        };
        expect_near(dots_of(z, a.values(), b.values(), weight.values()));
        ops->head_dots(*stream, dots, a, a, {});
        expect_near(dots_of(z, a.values(), a.values(), {}));
      }
}

TEST_F(HeadNormTest, ForwardEqualsTheReference) {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Shape& z : kShapes)
      for (const std::int64_t gap : {0, 8, 3}) {
        SCOPED_TRACE(fmt::format("{} {} gap {}", name_of(dtype), z.text(), gap));
        HostTensor x(dtype, {z.T, z.heads * z.D}, gap), out(dtype, {z.T, z.heads * z.D}, gap);
        x.fill_normal("x");
        const HostTensor weight = random_tensor(dtype, {z.D}, "weight"), squares(DType::F32, {z.T, z.heads});
        const std::int64_t width = 2 * z.D;
        ops->head_dots(*stream, squares, x, x, {});
        for (std::int64_t i = 0; i < squares.size(); ++i) set(squares, i, squares.get(i) + 0.5);
        ops->head_norm_forward(*stream, out, x, weight, squares, width, kEps);
        const Values expected = normed(z, x.values(), weight.values(), 0.5, width);
        for (std::size_t i = 0; i < expected.size(); ++i)
          ASSERT_NEAR(out.get(static_cast<std::int64_t>(i)), expected[i],
                      std::abs(expected[i]) * (dtype == DType::BF16 ? 0x1.02p-8 : 2e-6))
              << i;
        EXPECT_TRUE(out.gaps_untouched());
      }
}

TEST_F(HeadNormTest, BackwardEqualsFiniteDifferences) {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Shape& z : {Shape{4, 3, 7}, Shape{3, 1, 16}, Shape{130, 2, 4}}) {
      SCOPED_TRACE(fmt::format("{} {}", name_of(dtype), z.text()));
      const std::int64_t width = 3 * z.D;  // the other two thirds of the squares are fixed, and add no dots
      const double rest = 1.25;
      const HostTensor x = random_tensor(dtype, {z.T, z.heads * z.D}, "x"),
                       weight = random_tensor(dtype, {z.D}, "weight"),
                       dout = random_tensor(dtype, {z.T, z.heads * z.D}, "dout"),
                       dweight = random_tensor(DType::F32, {z.D}, "dweight"), squares(DType::F32, {z.T, z.heads}),
                       dots(DType::F32, {z.T, z.heads});
      const auto loss = [&](const Values& at, const Values& w) {
        const Values out = normed(z, at, w, rest, width);
        double sum = 0;
        for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * dout.get(static_cast<std::int64_t>(i));
        return sum;
      };
      const Values dx = differences(x.values(), [&](const Values& v) { return loss(v, weight.values()); });
      Values dw = differences(weight.values(), [&](const Values& v) { return loss(x.values(), v); });
      for (std::size_t i = 0; i < dw.size(); ++i) dw[i] += dweight.get(static_cast<std::int64_t>(i));
      ops->head_dots(*stream, squares, x, x, {});
      for (std::int64_t i = 0; i < squares.size(); ++i) set(squares, i, squares.get(i) + rest);
      ops->head_dots(*stream, dots, dout, x, weight);
      const OpBench bench(limits(z.D));
      bench.ops->head_norm_backward(*bench.stream, bench.workspace, dout, dweight, dout, x, weight, squares, dots,
                                    width, kEps);  // in place
      EXPECT_LT(relative_l2(dout.values(), dx), dtype == DType::F32 ? 2e-6 : 0x1p-8);
      EXPECT_LT(relative_l2(dweight.values(), dw), 2e-6);
    }
}

TEST_F(HeadNormTest, TheSameBitsOnAnyNumberOfThreads) {
  const std::int64_t T = 301, heads = 3, D = 40;
  const HostTensor x = random_tensor(DType::BF16, {T, heads * D}, "x"), weight = random_tensor(DType::BF16, {D}, "w"),
                   dout = random_tensor(DType::BF16, {T, heads * D}, "dout"),
                   squares = random_tensor(DType::F32, {T, heads}, "s"), dots(DType::F32, {T, heads});
  for (std::int64_t i = 0; i < squares.size(); ++i) set(squares, i, D * (1 + std::abs(squares.get(i))));
  const auto run = [&](int n) {
    const ThreadCount threads(n);
    const OpBench bench(limits(D));
    const HostTensor dx(DType::BF16, {T, heads * D}), dweight(DType::F32, {D});
    bench.ops->head_dots(*bench.stream, dots, dout, x, weight);
    bench.ops->head_norm_backward(*bench.stream, bench.workspace, dx, dweight, dout, x, weight, squares, dots, D, kEps);
    return std::pair(dx, dweight);
  };
  const auto [dx, dweight] = run(1);
  for (const int n : {1, 2, 3}) {
    const auto [dx_n, dweight_n] = run(n);
    EXPECT_TRUE(same_bits(dx_n, dx)) << n;
    EXPECT_TRUE(same_bits(dweight_n, dweight)) << n;
  }
}

TEST_F(HeadNormTest, RefusesWhatDoesNotFit) {
  const HostTensor x(DType::F32, {4, 12}), narrow(DType::F32, {4, 11}), weight(DType::F32, {4}),
      dots(DType::F32, {4, 3}), fives(DType::F32, {4, 5});
  EXPECT_THROW(ops->head_dots(*stream, fives, x, x, {}), Error);
  EXPECT_THROW(ops->head_dots(*stream, dots, x, narrow, {}), Error);
  EXPECT_THROW(ops->head_norm_forward(*stream, narrow, x, weight, dots, 4, kEps), Error);
  EXPECT_THROW(ops->head_norm_forward(*stream, x, x, weight, dots, 3, kEps), Error);
  EXPECT_THROW(ops->head_norm_backward(*stream, {}, x, narrow, x, x, weight, dots, dots, 4, kEps), Error);
}

}  // namespace
}  // namespace upcycle
