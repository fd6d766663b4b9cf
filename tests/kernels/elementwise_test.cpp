#include <cmath>
#include <limits>

#include "core/error.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

struct ElementwiseTest : OpTest {};

const DType kFloats[] = {DType::F32, DType::BF16, DType::F64};

TEST_F(ElementwiseTest, FillEveryType) {
  for (const DType dtype : {DType::F32, DType::BF16, DType::F64, DType::I32, DType::I64})
    for (const std::int64_t n : {0, 1, 33, 70001})
      for (const double value : {0.0, -3.0, 1.0}) {
        HostTensor x(dtype, {n});
        for (std::int64_t i = 0; i < n; ++i) set(x, i, 7);
        ops->fill(*stream, x, static_cast<float>(value));
        for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(x.get(i), value);
      }
  HostTensor x(DType::F32, {2});
  ops->fill(*stream, x, -0.0f);
  EXPECT_TRUE(std::signbit(x.get(1)));
}

TEST_F(ElementwiseTest, FillOfColumnsLeavesTheRestAlone) {
  HostTensor x(DType::F32, {3, 10});
  ops->fill(*stream, x.slice_columns(2, 5), 4);
  for (std::int64_t i = 0; i < 30; ++i) EXPECT_EQ(x.get(i), i % 10 >= 2 && i % 10 < 5 ? 4 : 0);
}

TEST_F(ElementwiseTest, ConvertBetweenAllTypes) {
  for (const DType from : kFloats)
    for (const DType to : kFloats)
      for (const std::int64_t n : {0, 1, 65, 40001}) {
        const HostTensor x = random_tensor(from, {n}, "x");
        HostTensor out(to, {n}), want(to, {n});
        ops->convert(*stream, out, x);
        for (std::int64_t i = 0; i < n; ++i) set(want, i, x.get(i));
        ASSERT_TRUE(same_bits(out, want)) << name_of(from) << " to " << name_of(to);
      }
}

TEST_F(ElementwiseTest, ConvertRoundsToNearestEvenAndKeepsNanAndInfinity) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float in[] = {1.00390625f, 1.01171875f, 3.3961775e38f, -3.3961775e38f, inf, -inf, nan, -0.0f, 1e-40f, 1e-45f};
  const std::int64_t n = std::size(in);
  HostTensor x(DType::F32, {n}), out(DType::BF16, {n});
  for (std::int64_t i = 0; i < n; ++i) x.as<float>()[i] = in[i];
  ops->convert(*stream, out, x);
  for (std::int64_t i = 0; i < n; ++i) {
    if (std::isnan(in[i])) continue;
    EXPECT_EQ(out.as<bf16>()[i].bits, to_bf16(in[i]).bits) << in[i];
  }
  EXPECT_EQ(out.get(0), 1.0);       // a tie, to even: down
  EXPECT_EQ(out.get(1), 1.015625);  // a tie, to even: up
  EXPECT_TRUE(std::isnan(out.get(6)));
}

// fp64 a hair above and below a bf16 tie must not fall on the tie by way of fp32.
TEST_F(ElementwiseTest, ConvertRoundsFp64OnlyOnce) {
  const double tie = 1.00390625, hair = 1e-12;
  const double in[] = {tie + hair,
                       tie - hair,
                       tie,
                       -tie - hair,
                       -tie + hair,
                       -tie,
                       1e300,
                       -1e300,
                       1e-300,
                       std::numeric_limits<double>::quiet_NaN(),
                       std::numeric_limits<double>::infinity()};
  const double want[] = {1.0078125, 1, 1, -1.0078125, -1, -1};
  const std::int64_t n = std::size(in);
  HostTensor x(DType::F64, {n}), out(DType::BF16, {n});
  for (std::int64_t i = 0; i < n; ++i) set(x, i, in[i]);
  ops->convert(*stream, out, x);
  for (std::int64_t i = 0; i < 6; ++i) EXPECT_EQ(out.get(i), want[i]) << i;
  EXPECT_EQ(out.get(8), 0);
  EXPECT_TRUE(std::isnan(out.get(9)));
  EXPECT_TRUE(std::isinf(out.get(10)));
}

TEST_F(ElementwiseTest, ConvertStridedRows) {
  const HostTensor wide = random_tensor(DType::F32, {9, 50}, "x");
  HostTensor out(DType::BF16, {9, 12});
  ops->convert(*stream, out, wide.slice_columns(7, 19));
  for (std::int64_t t = 0; t < 9; ++t)
    for (std::int64_t h = 0; h < 12; ++h)
      EXPECT_EQ(out.get(t * 12 + h), to_float(to_bf16(static_cast<float>(wide.get(t * 50 + 7 + h)))));
}

TEST_F(ElementwiseTest, AddMixedTypes) {
  for (const DType a_type : {DType::F32, DType::BF16})
    for (const DType b_type : {DType::F32, DType::BF16})
      for (const DType out_type : {DType::F32, DType::BF16})
        for (const std::int64_t n : {0, 1, 100, 40001}) {
          const HostTensor a = random_tensor(a_type, {n}, "a"), b = random_tensor(b_type, {n}, "b");
          HostTensor out(out_type, {n}), want(out_type, {n});
          ops->add(*stream, out, a, b);
          for (std::int64_t i = 0; i < n; ++i)
            set(want, i, static_cast<float>(a.get(i)) + static_cast<float>(b.get(i)));
          ASSERT_TRUE(same_bits(out, want));
        }
  HostTensor x = random_tensor(DType::F64, {5}, "a");
  const HostTensor before = copy_of(x), y = random_tensor(DType::F64, {5}, "b");
  ops->add(*stream, x, x, y);
  for (std::int64_t i = 0; i < 5; ++i) EXPECT_EQ(x.get(i), before.get(i) + y.get(i));
}

TEST_F(ElementwiseTest, AddInPlace) {
  HostTensor a = random_tensor(DType::BF16, {50001}, "a");
  const HostTensor b = random_tensor(DType::F32, {50001}, "b");
  HostTensor apart(DType::BF16, {50001});
  ops->add(*stream, apart, a, b);
  ops->add(*stream, a, a, b);
  EXPECT_TRUE(same_bits(a, apart));
}

TEST_F(ElementwiseTest, ScalesInPlaceOrNot) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const HostTensor wide = random_tensor(dtype, {9, 50}, "x"), before = copy_of(wide);
    HostTensor out(dtype, {9, 12});
    ops->scale(*stream, out, wide.slice_columns(7, 19), 0.3f);
    ops->scale(*stream, wide.slice_columns(7, 19), wide.slice_columns(7, 19), 0.3f);
    for (std::int64_t t = 0; t < 9; ++t)
      for (std::int64_t h = 0; h < 50; ++h) {
        const auto x = static_cast<float>(before.get(t * 50 + h));
        const bool inside = h >= 7 && h < 19;
        const float scaled = dtype == DType::F32 ? x * 0.3f : to_float(to_bf16(x * 0.3f));
        EXPECT_EQ(wide.get(t * 50 + h), inside ? scaled : x);
        if (inside) {
          EXPECT_EQ(out.get(t * 12 + h - 7), scaled);
        }
      }
    HostTensor x = random_tensor(dtype, {50001}, "x"), apart(dtype, {50001});
    ops->scale(*stream, apart, x, 1.7f);
    ops->scale(*stream, x, x, 1.7f);
    EXPECT_TRUE(same_bits(x, apart));
  }
}

TEST_F(ElementwiseTest, ShapesAndTypesAreChecked) {
  const HostTensor a(DType::F32, {4}), b(DType::F32, {5}), i(DType::I32, {4}), d(DType::F64, {4});
  EXPECT_THROW(ops->convert(*stream, a, b), Error);
  EXPECT_THROW(ops->convert(*stream, a, i), Error);
  EXPECT_THROW(ops->convert(*stream, i, a), Error);
  EXPECT_THROW(ops->add(*stream, a, a, b), Error);
  EXPECT_THROW(ops->add(*stream, a, a, i), Error);
  EXPECT_THROW(ops->add(*stream, a, d, a), Error);
  EXPECT_THROW(ops->scale(*stream, d, d, 2), Error);
  EXPECT_THROW(ops->scale(*stream, a, b, 2), Error);
  EXPECT_THROW(ops->fill(*stream, Tensor(nullptr, DType::F32, {3}), 1), Error);
}

// ---- sum_squares, clip_scale --------------------------------------------------------------------------------------

struct NormTest : OpTest {
  double sum(const Tensor& x, double before = 0) {
    testing::Bytes scratch(ops->workspace_bytes({}), std::byte{0x5a});
    HostTensor out(DType::F64, {1});
    set(out, 0, before);
    ops->sum_squares(*stream, {scratch.data(), scratch.size()}, out, x);
    return out.get(0);
  }
};

TEST_F(NormTest, SumMatchesReferenceAndAdds) {
  for (const std::int64_t n : {0, 1, 31, 4096, 4097, 300001}) {
    const HostTensor x = random_tensor(DType::F32, {n}, "x");
    long double exact = 0;  // a plain fp64 sum would be the less precise of the two
    for (const double v : x.values()) exact += static_cast<long double>(v) * static_cast<long double>(v);
    const double want = static_cast<double>(exact);
    EXPECT_NEAR(sum(x), want, 1e-14 * want);
    EXPECT_NEAR(sum(x, 10), want + 10, 1e-14 * (want + 10));
  }
}

// More elements than the blocks of the least size hold: the blocks grow, every element is still counted once.
TEST_F(NormTest, SumOfMoreThanTheMostBlocks) {
  HostTensor x(DType::F32, {5'000'003});
  ops->fill(*stream, x, 2);
  EXPECT_EQ(sum(x), 4.0 * 5'000'003);
  set(x, 5'000'002, 3);
  EXPECT_EQ(sum(x), 4.0 * 5'000'003 + 5);
}

TEST_F(NormTest, LargeAndSmallValuesDoNotOverflowOrVanish) {
  HostTensor x(DType::F32, {3});
  set(x, 0, 1e30);
  EXPECT_NEAR(sum(x), 1e60, 1e54);
  set(x, 0, 1e-30);
  EXPECT_NEAR(sum(x), 1e-60, 1e-66);
}

TEST_F(NormTest, ThreadsDoNotShow) {
  const HostTensor x = random_tensor(DType::F32, {123457}, "x");
  std::vector<double> sums;
  for (const int threads : {1, 1, 2, 3, 7}) {
    const ThreadCount count(threads);
    sums.push_back(sum(x));
  }
  for (const double s : sums) EXPECT_EQ(s, sums[0]);
}

TEST_F(NormTest, SmallScratchThrows) {
  HostTensor out(DType::F64, {1});
  EXPECT_THROW(ops->sum_squares(*stream, {}, out, random_tensor(DType::F32, {5}, "x")), Error);
  EXPECT_THROW(sum(HostTensor(DType::BF16, {5})), Error);
}

TEST_F(NormTest, ClipScale) {
  HostTensor scale(DType::F32, {1}), squares(DType::F64, {1});
  const auto clip = [&](double sum_squares, float max_norm) {
    set(squares, 0, sum_squares);
    ops->clip_scale(*stream, scale, squares, max_norm);
    return scale.get(0);
  };
  EXPECT_FLOAT_EQ(static_cast<float>(clip(16, 1)), static_cast<float>(1 / (4 + 1e-6)));
  EXPECT_EQ(clip(0.25, 1), 1);
  EXPECT_EQ(clip(1, 1), static_cast<double>(static_cast<float>(1 / (1 + 1e-6))));
  EXPECT_EQ(clip(0, 1), 1);
  EXPECT_EQ(clip(1e12, 0), 1);
  EXPECT_EQ(clip(1e12, -1), 1);
  EXPECT_EQ(clip(std::numeric_limits<double>::infinity(), 1), 0);
  EXPECT_TRUE(std::isnan(clip(std::numeric_limits<double>::quiet_NaN(), 1)));
}

}  // namespace
}  // namespace upcycle
