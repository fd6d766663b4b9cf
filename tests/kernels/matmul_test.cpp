#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/kernels/host_tensor.h"

namespace upcycle {
namespace {

using testing::HostTensor;
using testing::OpBench;

struct Types {
  DType ab, c;
  Store store;
};
constexpr Types kTypes[] = {{DType::F32, DType::F32, Store::Overwrite},
                            {DType::F32, DType::F32, Store::Accumulate},
                            {DType::BF16, DType::BF16, Store::Overwrite},
                            {DType::BF16, DType::F32, Store::Overwrite},
                            {DType::BF16, DType::F32, Store::Accumulate}};
constexpr MatmulKind kKinds[] = {MatmulKind::NT, MatmulKind::NN, MatmulKind::TN};

struct Product {
  MatmulKind kind;
  std::int64_t m, n, k;
  HostTensor a, b, c;

  Product(MatmulKind kind_, std::int64_t m_, std::int64_t n_, std::int64_t k_, Types types, std::int64_t gap)
      : kind(kind_),
        m(m_),
        n(n_),
        k(k_),
        a(kind == MatmulKind::TN ? HostTensor(types.ab, {k, m}, gap) : HostTensor(types.ab, {m, k}, gap)),
        b(kind == MatmulKind::NT ? HostTensor(types.ab, {n, k}, 2 * gap) : HostTensor(types.ab, {k, n}, 2 * gap)),
        c(types.c, {m, n}, 3 * gap) {
    a.fill_normal("a");
    b.fill_normal("b");
    c.fill_normal("c");
  }
  double a_at(std::int64_t i, std::int64_t p) const { return kind == MatmulKind::TN ? a.get(p, i) : a.get(i, p); }
  double b_at(std::int64_t p, std::int64_t j) const { return kind == MatmulKind::NT ? b.get(j, p) : b.get(p, j); }
};

// Runs the product and compares each element: fp32 sums are off by some eps times the sum of magnitudes, a bf16 result
// by half a unit in its last place more.
void expect_right(OpBench& bench, Product& p, Types types) {
  const std::vector<double> before = p.c.values();
  bench.ops->matmul(*bench.stream, bench.workspace, p.kind, p.c, p.a, p.b, types.store);
  EXPECT_TRUE(p.c.gaps_untouched());
  for (std::int64_t i = 0; i < p.m; ++i)
    for (std::int64_t j = 0; j < p.n; ++j) {
      double sum = types.store == Store::Accumulate ? before[static_cast<std::size_t>(i * p.n + j)] : 0;
      double magnitude = std::abs(sum);
      for (std::int64_t q = 0; q < p.k; ++q) {
        sum += p.a_at(i, q) * p.b_at(q, j);
        magnitude += std::abs(p.a_at(i, q) * p.b_at(q, j));
      }
      const double bound = 4e-7 * magnitude + (types.c == DType::BF16 ? std::abs(sum) * 0x1p-8 : 0);
      ASSERT_NEAR(p.c.get(i, j), sum, bound) << i << ", " << j;
    }
}

TEST(Matmul, EqualsAPlainLoopForAllKindsTypesAndStores) {
  OpBench bench({});
  const std::array<std::int64_t, 3> shapes[] = {{1, 1, 1},    {3, 5, 7},    {16, 64, 32}, {33, 17, 65},  {64, 100, 1},
                                                {1, 300, 70}, {129, 1, 40}, {2, 40, 515}, {200, 96, 77}, {3, 300, 243}};
  for (const MatmulKind kind : kKinds)
    for (const Types types : kTypes)
      for (const auto& [m, n, k] : shapes)
        for (const std::int64_t gap : {0, 5}) {
          SCOPED_TRACE(fmt::format("kind {} {} -> {} store {} shape {} {} {} gap {}", static_cast<int>(kind),
                                   name_of(types.ab), name_of(types.c), static_cast<int>(types.store), m, n, k, gap));
          Product p(kind, m, n, k, types, gap);
          expect_right(bench, p, types);
        }
}

TEST(Matmul, ZeroSizes) {
  OpBench bench({});
  for (const MatmulKind kind : kKinds)
    for (const Types types : kTypes)
      for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{0, 5, 4}, {5, 0, 4}, {5, 4, 0}, {0, 0, 0}}) {
        Product p(kind, m, n, k, types, 3);
        expect_right(bench, p, types);
      }
}

TEST(Matmul, SameInputsSameBits) {
  OpBench bench({});
  for (const MatmulKind kind : kKinds)
    for (const Types types : kTypes) {
      Product p(kind, 70, 300, 600, types, 0), q(kind, 70, 300, 600, types, 0);
      bench.ops->matmul(*bench.stream, bench.workspace, kind, p.c, p.a, p.b, types.store);
      bench.ops->matmul(*bench.stream, bench.workspace, kind, q.c, q.a, q.b, types.store);
      EXPECT_EQ(std::memcmp(p.c.data, q.c.data, p.c.bytes()), 0);
    }
}

TEST(Matmul, RefusesWhatItCanNotDo) {
  OpBench bench({});
  const HostTensor a(DType::F32, {4, 3}), b(DType::F32, {5, 3}), half(DType::BF16, {5, 3}), c(DType::F32, {4, 5}),
      half_c(DType::BF16, {4, 5}), narrow(DType::F32, {4, 4}), half_a(DType::BF16, {4, 3});
  const auto run = [&](const Tensor& out, const Tensor& x, const Tensor& y, Store store = Store::Overwrite) {
    bench.ops->matmul(*bench.stream, bench.workspace, MatmulKind::NT, out, x, y, store);
  };
  EXPECT_NO_THROW(run(c, a, b));
  EXPECT_THROW(run(c, a, half), Error);                               // mixed factors
  EXPECT_THROW(run(half_c, a, b), Error);                             // fp32 into bf16
  EXPECT_THROW(run(half_c, half_a, half, Store::Accumulate), Error);  // a sum in bf16
  EXPECT_THROW(run(narrow, a, b), Error);
  EXPECT_THROW(run(c, b, a), Error);
  bench.workspace.bytes = 0;
  const HostTensor wide_a(DType::BF16, {64, 700}), wide_b(DType::BF16, {90, 700}), wide_c(DType::F32, {64, 90});
  EXPECT_THROW(run(wide_c, wide_a, wide_b), Error);
}

}  // namespace
}  // namespace upcycle
