#include <cmath>

#include "core/error.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

using testing::relative_l2;

constexpr std::int64_t kPositions = 300;

HostTensor table(std::int64_t D) {
  const HostTensor t(DType::F32, {kPositions, D});
  for (std::int64_t p = 0; p < kPositions; ++p) {
    for (std::int64_t i = 0; i < D / 2; ++i) {
      const double angle = static_cast<double>(p) / std::pow(10000.0, 2.0 * static_cast<double>(i) / D);
      set(t, p * D + i, std::cos(angle));
      set(t, p * D + D / 2 + i, std::sin(angle));
    }
  }
  return t;
}

HostTensor positions(std::int64_t T) {
  const HostTensor p(DType::I32, {T});
  for (std::int64_t t = 0; t < T; ++t) set(p, t, static_cast<double>((t * 37 + 299) % kPositions));
  return p;
}

struct RopeTest : OpTest {};

TEST_F(RopeTest, TurnsEachPairByItsAngle) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const std::int64_t D : {2, 8, 38, 64, 128}) {
      for (const std::int64_t heads : {1, 3}) {
        SCOPED_TRACE(fmt::format("{} D {} heads {}", name_of(dtype), D, heads));
        const std::int64_t T = 41;
        testing::HostTensor x(dtype, {T, heads * D}, 6);  // like q in a packed qkv
        x.fill_normal("x");
        const std::vector<double> before = x.values();
        const HostTensor cos_sin = table(D), p = positions(T);
        ops->rope(*stream, x, D, cos_sin, p, false);
        for (std::int64_t t = 0; t < T; ++t) {
          for (std::int64_t n = 0; n < heads; ++n) {
            for (std::int64_t i = 0; i < D / 2; ++i) {
              const std::size_t at = static_cast<std::size_t>((t * heads + n) * D + i);
              const double a = before[at], b = before[at + static_cast<std::size_t>(D / 2)];
              const double angle = p.get(t) / std::pow(10000.0, 2.0 * static_cast<double>(i) / D);
              const double c = std::cos(angle), s = std::sin(angle), bound = std::hypot(a, b);
              const double tolerance = bound * (dtype == DType::F32 ? 2e-7 : 0x1.02p-8);
              ASSERT_NEAR(x.get(t, n * D + i), a * c - b * s, tolerance);
              ASSERT_NEAR(x.get(t, n * D + D / 2 + i), b * c + a * s, tolerance);
            }
          }
        }
        EXPECT_TRUE(x.gaps_untouched());
      }
    }
  }
}

TEST_F(RopeTest, TurnsOnlyTheFirstElementsOfAHead) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const auto& [R, D] : {std::pair{8, 12}, {32, 64}, {96, 128}, {2, 7}}) {
      SCOPED_TRACE(fmt::format("{} R {} D {}", name_of(dtype), R, D));
      const std::int64_t T = 11, heads = 3;
      const HostTensor x = random_tensor(dtype, {T, heads * D}, "x"), whole = copy_of(x), part(dtype, {T, heads * R});
      for (std::int64_t t = 0; t < T; ++t)
        for (std::int64_t i = 0; i < heads * R; ++i)
          set(part, t * heads * R + i, x.get((t * heads + i / R) * D + i % R));
      const HostTensor cos_sin = table(R), p = positions(T);
      ops->rope(*stream, x, D, cos_sin, p, false);
      ops->rope(*stream, part, R, cos_sin, p, false);
      for (std::int64_t i = 0; i < x.size(); ++i)
        ASSERT_EQ(x.get(i), i % D < R ? part.get(i / D * R + i % D) : whole.get(i)) << i;
    }
  }
}

// A rotation's inverse is its transpose, so <rope(x), y> = <x, inverse(y)> makes it the gradient too.
TEST_F(RopeTest, InverseIsTheGradient) {
  const std::int64_t T = 13, D = 16;
  const HostTensor x = random_tensor(DType::F32, {T, 2 * D}, "x"), y = random_tensor(DType::F32, {T, 2 * D}, "y"),
                   turned = copy_of(x), back = copy_of(y), cos_sin = table(D), p = positions(T);
  ops->rope(*stream, turned, D, cos_sin, p, false);
  ops->rope(*stream, back, D, cos_sin, p, true);
  double left = 0, right = 0;
  for (std::int64_t i = 0; i < x.size(); ++i) {
    left += turned.get(i) * y.get(i);
    right += x.get(i) * back.get(i);
  }
  EXPECT_NEAR(left, right, 1e-5 * std::abs(left));
  ops->rope(*stream, turned, D, cos_sin, p, true);
  EXPECT_LT(relative_l2(turned.values(), x.values()), 2e-7);

  // A central difference of a linear map is exact but for rounding.
  const std::int64_t i = 5 * 2 * D + 3;
  const auto loss = [&](double at) {
    const HostTensor moved = copy_of(x);
    set(moved, i, at);
    ops->rope(*stream, moved, D, cos_sin, p, false);
    double sum = 0;
    for (std::int64_t j = 0; j < x.size(); ++j) sum += moved.get(j) * y.get(j);
    return sum;
  };
  EXPECT_NEAR((loss(1) - loss(-1)) / 2, back.get(i), 1e-5);
}

TEST_F(RopeTest, SameBitsForEveryThreadCount) {
  const HostTensor x = random_tensor(DType::BF16, {257, 4 * 64}, "x"), cos_sin = table(64), p = positions(257);
  const auto run = [&](int n) {
    const ThreadCount threads(n);
    const HostTensor turned = copy_of(x);
    ops->rope(*stream, turned, 64, cos_sin, p, false);
    return turned;
  };
  const HostTensor one = run(1);
  for (const int n : {1, 2, 5}) EXPECT_TRUE(same_bits(run(n), one)) << n;
}

TEST_F(RopeTest, RefusesWhatDoesNotFit) {
  const HostTensor x(DType::F32, {4, 24}), cos_sin = table(8), p = positions(4);
  EXPECT_NO_THROW(ops->rope(*stream, x, 8, cos_sin, p, false));
  EXPECT_THROW(ops->rope(*stream, x, 6, cos_sin, p, false), Error);
  EXPECT_THROW(ops->rope(*stream, x, 16, cos_sin, p, false), Error);
  EXPECT_THROW(ops->rope(*stream, x, 8, table(12), p, false), Error);
  for (const std::int64_t outside : {kPositions, std::int64_t{-1}}) {
    set(p, 2, outside);
    if (device->kind() == DeviceKind::Cpu) {
      EXPECT_THROW(ops->rope(*stream, x, 8, cos_sin, p, false), Error);
    } else {  // a GPU's launcher can not see positions: their row becomes NaN
      ops->rope(*stream, x, 8, cos_sin, p, false);
      EXPECT_TRUE(std::isnan(x.get(2, 0)));
    }
  }
}

}  // namespace
}  // namespace upcycle
