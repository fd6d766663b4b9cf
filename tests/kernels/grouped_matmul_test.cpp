#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/kernels/host_tensor.h"

namespace upcycle {
namespace {

using testing::HostTensor;
using testing::OpBench;

constexpr MatmulKind kKinds[] = {MatmulKind::NT, MatmulKind::NN, MatmulKind::TN};

struct Types {
  DType ab, c;
  Store store;
};
constexpr Types kTypes[] = {{DType::F32, DType::F32, Store::Overwrite},
                            {DType::F32, DType::F32, Store::Accumulate},
                            {DType::BF16, DType::BF16, Store::Overwrite},
                            {DType::BF16, DType::F32, Store::Overwrite},
                            {DType::BF16, DType::F32, Store::Accumulate}};

// Segments that are empty, short, just past the longest piece, and of several pieces; rows before and behind them all.
const std::vector<std::int64_t> kOffsets = {16, 16, 32, 560, 560, 1616, 1616};
constexpr std::int64_t kRows = 1648;

void expect_right(OpBench& bench, MatmulKind kind, Types types, std::int64_t gap) {
  const std::int64_t E = static_cast<std::int64_t>(kOffsets.size()) - 1, out = 24, in = 40;
  const bool tn = kind == MatmulKind::TN;
  const std::int64_t a_columns = kind == MatmulKind::NT ? in : out, c_columns = kind == MatmulKind::NT ? out : in;
  HostTensor a(types.ab, {kRows, a_columns}, gap);
  HostTensor b = tn ? HostTensor(types.ab, {kRows, in}, 2 * gap) : HostTensor(types.ab, {E, out, in}, 8 * gap);
  HostTensor c = tn ? HostTensor(types.c, {E, out, in}, 8 * gap) : HostTensor(types.c, {kRows, c_columns}, 3 * gap);
  a.fill_normal("a");
  b.fill_normal("b");
  c.fill_normal("c");
  const std::vector<double> as = a.values(), bs = b.values();
  std::vector<double> expected = c.values(), magnitude(expected.size());
  // One element: terms products, from as[i] and bs[j] on in steps.
  const auto dot = [&](std::int64_t element, std::int64_t terms, std::int64_t i, std::int64_t i_step, std::int64_t j,
                       std::int64_t j_step) {
    double sum = types.store == Store::Overwrite ? 0 : expected[static_cast<std::size_t>(element)];
    double absolute = std::abs(sum);
    for (std::int64_t p = 0; p < terms; ++p, i += i_step, j += j_step) {
      const double term = as[static_cast<std::size_t>(i)] * bs[static_cast<std::size_t>(j)];
      sum += term;
      absolute += std::abs(term);
    }
    expected[static_cast<std::size_t>(element)] = sum;
    magnitude[static_cast<std::size_t>(element)] = absolute;
  };
  for (std::int64_t e = 0; e < E; ++e) {
    const std::int64_t begin = kOffsets[static_cast<std::size_t>(e)], end = kOffsets[static_cast<std::size_t>(e) + 1];
    if (tn)
      for (std::int64_t i = 0; i < out * in; ++i)
        dot(e * out * in + i, end - begin, begin * out + i / in, out, begin * in + i % in, in);
    else
      for (std::int64_t r = begin; r < end; ++r)
        for (std::int64_t j = 0; j < c_columns; ++j)
          if (kind == MatmulKind::NT)
            dot(r * out + j, in, r * in, 1, e * out * in + j * in, 1);
          else
            dot(r * in + j, out, r * out, 1, e * out * in + j, in);
  }
  bench.ops->grouped_matmul(*bench.stream, bench.workspace, kind, c, a, b, kOffsets, types.store);
  EXPECT_TRUE(c.gaps_untouched());
  for (std::int64_t i = 0; i < c.size(); ++i) {
    const double want = expected[static_cast<std::size_t>(i)];
    const double bound =
        6e-7 * magnitude[static_cast<std::size_t>(i)] + (types.c == DType::BF16 ? std::abs(want) * 0x1p-8 : 0);
    ASSERT_NEAR(c.get(i), want, bound) << i;  // rows of no segment: exactly what they were
  }
}

TEST(GroupedMatmul, EqualsAPlainLoopForAllKindsTypesAndStores) {
  OpBench bench({});
  for (const MatmulKind kind : kKinds)
    for (const Types types : kTypes)
      for (const std::int64_t gap : {0, 7}) {
        SCOPED_TRACE(fmt::format("kind {} {} -> {} store {} gap {}", static_cast<int>(kind), name_of(types.ab),
                                 name_of(types.c), static_cast<int>(types.store), gap));
        expect_right(bench, kind, types, gap);
      }
}

// Inference on a CPU does not pad: an expert's rows, few or many, are those of a product of their own.
TEST(GroupedMatmul, SegmentsWithoutPadding) {
  OpBench bench({});
  const std::vector<std::int64_t> offsets = {1, 2, 2, 19, 19 + 301, 330};
  constexpr std::int64_t E = 5, n = 40, k = 52, R = 332;
  for (const Types types : kTypes) {
    if (types.store == Store::Accumulate) continue;
    HostTensor a(types.ab, {R, k}, 3), b(types.ab, {E, n, k}, 8), c(types.c, {R, n}, 2);
    a.fill_normal("a");
    b.fill_normal("b");
    c.fill_value(7);
    const auto run = [&] {
      bench.ops->grouped_matmul(*bench.stream, bench.workspace, MatmulKind::NT, c, a, b, offsets, Store::Overwrite, 1);
    };
    if (bench.device->kind() != DeviceKind::Cpu) {
      EXPECT_THROW(run(), Error);
      continue;
    }
    run();
    EXPECT_TRUE(c.gaps_untouched());
    std::size_t e = 0;
    for (std::int64_t r = 0; r < R; ++r) {
      while (e < E && offsets[e + 1] <= r) ++e;
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = 0, magnitude = 0;
        for (std::int64_t p = 0; p < k && e < E; ++p) {
          const double term = a.get(r, p) * b.get(static_cast<std::int64_t>(e), j * k + p);
          sum += term;
          magnitude += std::abs(term);
        }
        if (r < offsets.front() || e == E) sum = 7;  // rows of no segment
        const double bound = 6e-7 * magnitude + (types.c == DType::BF16 ? std::abs(sum) * 0x1p-8 : 0);
        ASSERT_NEAR(c.get(r, j), sum, bound) << r << ", " << j;
      }
    }
  }
}

TEST(GroupedMatmul, NoExpertHasRows) {
  OpBench bench({});
  const std::int64_t offsets[] = {0, 0, 0};
  HostTensor x(DType::F32, {0, 8}), dy(DType::F32, {0, 4}), w(DType::F32, {2, 4, 8}), dw(DType::F32, {2, 4, 8});
  dw.fill_value(3);
  bench.ops->grouped_matmul(*bench.stream, bench.workspace, MatmulKind::NT, dy, x, w, offsets, Store::Overwrite);
  bench.ops->grouped_matmul(*bench.stream, bench.workspace, MatmulKind::TN, dw, dy, x, offsets, Store::Accumulate);
  for (const double v : dw.values()) EXPECT_EQ(v, 3);
  bench.ops->grouped_matmul(*bench.stream, bench.workspace, MatmulKind::TN, dw, dy, x, offsets, Store::Overwrite);
  for (const double v : dw.values()) EXPECT_EQ(v, 0);
}

TEST(GroupedMatmul, RefusesWrongOffsetsAndSizes) {
  OpBench bench({});
  const HostTensor x(DType::F32, {64, 8}), y(DType::F32, {64, 4}), w(DType::F32, {2, 4, 8});
  const auto run = [&](const Tensor& c, const Tensor& a, const Tensor& b, std::vector<std::int64_t> offsets) {
    bench.ops->grouped_matmul(*bench.stream, bench.workspace, MatmulKind::NT, c, a, b, offsets, Store::Overwrite);
  };
  EXPECT_NO_THROW(run(y, x, w, {0, 32, 64}));
  EXPECT_THROW(run(y, x, w, {0, 64}), Error);      // one too few
  EXPECT_THROW(run(y, x, w, {0, 24, 64}), Error);  // not aligned
  EXPECT_THROW(run(y, x, w, {0, 64, 32}), Error);  // falling
  EXPECT_THROW(run(y, x, w, {0, 32, 80}), Error);  // past the buffer
  EXPECT_THROW(run(x, y, w, {0, 32, 64}), Error);  // sizes
  const std::int64_t unpadded[] = {0, 3, 64};
  HostTensor dw(DType::F32, {2, 4, 8});
  EXPECT_THROW(bench.ops->grouped_matmul(*bench.stream, bench.workspace, MatmulKind::TN, dw, y, x, unpadded,
                                         Store::Overwrite, 1),
               Error);  // a gradient
}

}  // namespace
}  // namespace upcycle
