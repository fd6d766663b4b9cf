#include "kernels/cpu/thin_matmul.h"

#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

struct Types {
  DType ab, c;
};
constexpr Types kTypes[] = {{DType::F32, DType::F32}, {DType::BF16, DType::F32}, {DType::BF16, DType::BF16}};

// All that this processor can run.
std::vector<CpuIsa> instruction_sets() {
  std::vector<CpuIsa> found = {CpuIsa::Avx2};
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    found.push_back(CpuIsa::Avx512);
  if (found.size() == 2 && __builtin_cpu_supports("avx512bf16")) found.push_back(CpuIsa::Avx512Bf16);
  return found;
}

GemmShape shape_of(const Tensor& c, const Tensor& a, const Tensor& b) {
  return checked_matmul(MatmulKind::NT, c, a, b, Store::Overwrite);
}

void multiply(CpuIsa isa, const Tensor& c, const Tensor& a, const Tensor& b) {
  const std::int64_t all[] = {0, a.rows()};
  thin_matmul(isa, shape_of(c, a, b), all, 0, c.data, a.data, b.data);
}

TEST(ThinMatmul, EqualsAPlainLoopForEveryNumberOfRows) {
  for (const CpuIsa isa : instruction_sets())
    for (const Types types : kTypes)
      for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 7}, {70, 40}, {9, 131}, {37, 0}})
        for (std::int64_t m = 0; m <= 17; ++m) {
          SCOPED_TRACE(fmt::format("isa {} {} -> {} m {} n {} k {}", static_cast<int>(isa), name_of(types.ab),
                                   name_of(types.c), m, n, k));
          HostTensor a(types.ab, {m, k}, 3), b(types.ab, {n, k}, 5), c(types.c, {m, n}, 2);
          a.fill_normal("a");
          b.fill_normal("b");
          c.fill_value(7);
          multiply(isa, c, a, b);
          EXPECT_TRUE(c.gaps_untouched());
          for (std::int64_t i = 0; i < m; ++i)
            for (std::int64_t j = 0; j < n; ++j) {
              double sum = 0, magnitude = 0;
              for (std::int64_t p = 0; p < k; ++p) {
                sum += a.get(i, p) * b.get(j, p);
                magnitude += std::abs(a.get(i, p) * b.get(j, p));
              }
              const double bound = 4e-7 * magnitude + (types.c == DType::BF16 ? std::abs(sum) * 0x1p-8 : 0);
              ASSERT_NEAR(c.get(i, j), sum, bound) << i << ", " << j;
            }
        }
}

// A request's tokens must not depend on what else is in its batch, nor on how many threads there are.
TEST(ThinMatmul, AnElementsBitsDependOnItsRowsAlone) {
  constexpr std::int64_t M = 96, n = 150, k = 1003;
  for (const CpuIsa isa : instruction_sets())
    for (const Types types : kTypes) {
      HostTensor a(types.ab, {M, k}), b(types.ab, {n, k}), all(types.c, {M, n}), c(types.c, {M, n});
      a.fill_normal("a");
      b.fill_normal("b");
      multiply(isa, all, a, b);
      for (std::int64_t m = 1; m <= M; m += m < 14 ? 1 : 7) {
        const ThreadCount threads(1 + static_cast<int>(m % 3));
        const std::int64_t row = M - m, column = m % 11;
        const Tensor part = c.slice_rows(0, m).slice_columns(0, n - column);
        multiply(isa, part, a.slice_rows(row, row + m), b.slice_rows(column, n));
        for (std::int64_t i = 0; i < m; ++i)
          for (std::int64_t j = column; j < n; ++j)
            ASSERT_EQ(c.get(i, j - column), all.get(row + i, j)) << static_cast<int>(isa) << ": " << m << ", " << j;
      }
    }
}

TEST(ThinMatmul, InfinitiesNaNsAndRoundingAreThoseOfTheSum) {
  for (const CpuIsa isa : instruction_sets()) {
    HostTensor a(DType::BF16, {2, 35}), b(DType::BF16, {5, 35}), c(DType::BF16, {2, 5});
    a.fill_value(1);
    b.fill_value(0);
    set(b, 34, 1e38);
    for (std::int64_t j = 0; j < 35; ++j) {
      b.set(35 + j, 1e38);                                // the sum overflows
      b.set(2 * 35 + j, j == 3 ? std::nan("") : 1);       // NaN
      b.set(3 * 35 + j, j == 0 ? 256 : j == 34 ? 1 : 0);  // 257 lies between 256 and 258: to even
      b.set(4 * 35 + j, j == 0 ? 258 : j == 34 ? 1 : 0);  // 259: up, to even
    }
    multiply(isa, c, a, b);
    for (std::int64_t i = 0; i < 2; ++i) {
      EXPECT_EQ(c.get(i, 0), to_float(to_bf16(1e38F)));
      EXPECT_EQ(c.get(i, 1), INFINITY);
      EXPECT_TRUE(std::isnan(c.get(i, 2)));
      EXPECT_EQ(c.get(i, 3), 256);
      EXPECT_EQ(c.get(i, 4), 260);
    }
  }
}

// Segments are multiplied with matrices of their own; those with too many rows are another's work.
TEST(ThinMatmul, SegmentsHaveAMatrixEach) {
  constexpr std::int64_t n = 70, k = 45, E = 5;
  const std::int64_t offsets[] = {1, 3, 3, 10, 267, 270};
  for (const CpuIsa isa : instruction_sets())
    for (const Types types : kTypes) {
      HostTensor a(types.ab, {280, k}, 1), b(types.ab, {E * n, k}), c(types.c, {280, n}, 3), one(types.c, {280, n});
      a.fill_normal("a");
      b.fill_normal("b");
      c.fill_value(5);
      thin_matmul(isa, shape_of(c, a, b.slice_rows(0, n)), offsets, n * k, c.data, a.data, b.data);
      EXPECT_TRUE(c.gaps_untouched());
      one.fill_value(5);
      for (const std::int64_t e : {0, 2, 4}) {
        const std::int64_t begin = offsets[e], end = offsets[e + 1];
        multiply(isa, one.slice_rows(begin, end), a.slice_rows(begin, end), b.slice_rows(e * n, (e + 1) * n));
      }
      EXPECT_EQ(c.values(), one.values());
    }
}

TEST(ThinMatmul, TrainingsProductsStayWithOneDnn) {
  const auto thin = [](CpuIsa isa, GemmShape s) { return is_thin(isa, s); };
  const GemmShape fp32{.m = 96, .n = 256, .k = 256}, small{.m = 1, .n = 255, .k = 256};
  const GemmShape bf16_{.ab = DType::BF16, .m = 128, .n = 256, .k = 256};
  EXPECT_TRUE(thin(CpuIsa::Avx512Bf16, fp32) && thin(CpuIsa::Avx2, fp32) && thin(CpuIsa::Avx512Bf16, bf16_));
  EXPECT_FALSE(thin(CpuIsa::Avx512, bf16_) || thin(CpuIsa::Avx2, small));
  for (const MatmulKind kind : {MatmulKind::NT, MatmulKind::NN, MatmulKind::TN})
    for (const Store store : {Store::Overwrite, Store::Accumulate})
      for (const std::int64_t m : {1, 129}) {
        const GemmShape s{.kind = kind, .store = store, .ab = DType::BF16, .m = m, .n = 512, .k = 512};
        EXPECT_EQ(thin(CpuIsa::Avx512Bf16, s), kind == MatmulKind::NT && store == Store::Overwrite && m == 1);
      }
}

}  // namespace
}  // namespace upcycle
