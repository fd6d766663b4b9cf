#include "kernels/cpu/gemm_cache.h"

#include <cstdlib>
#include <string>

#include "core/error.h"
#include "kernels/cpu/cpu_ops.h"
#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

using testing::HostTensor;
using testing::OpBench;

// Training changes the counts of experts at every step: after prepare no count may make a primitive.
TEST(GemmCache, PreparedShapesCoverEveryCount) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    OpLimits limits{.H = 16, .E = 3, .R = 1200, .moe_F = 24, .dtype = dtype};
    OpBench bench(limits);
    bench.ops->prepare(limits);
    const CpuOps& ops = dynamic_cast<const CpuOps&>(*bench.ops);
    const std::size_t prepared = ops.matmul_primitives();
    EXPECT_GT(prepared, 0u);
    HostTensor x(dtype, {limits.R, 16}), h(dtype, {limits.R, 24}), up(dtype, {limits.R, 48}), w_up(dtype, {3, 48, 16}),
        w_down(dtype, {3, 16, 24}), dw_up(DType::F32, {3, 48, 16}), dw_down(DType::F32, {3, 16, 24});
    for (std::int64_t rows = 0; rows <= 1200; rows += 16) {
      const std::int64_t offsets[] = {0, rows / 3 / 16 * 16, rows / 3 / 16 * 16, rows};
      const auto run = [&](MatmulKind kind, const Tensor& c, const Tensor& a, const Tensor& b) {
        bench.ops->grouped_matmul(*bench.stream, bench.workspace, kind, c, a, b, offsets,
                                  kind == MatmulKind::TN ? Store::Accumulate : Store::Overwrite);
      };
      run(MatmulKind::NT, up, x, w_up);
      run(MatmulKind::NT, x, h, w_down);
      run(MatmulKind::NN, h, x, w_down);
      run(MatmulKind::NN, x, up, w_up);
      run(MatmulKind::TN, dw_up, up, x);
      run(MatmulKind::TN, dw_down, x, h);
    }
    EXPECT_EQ(ops.matmul_primitives(), prepared);
  }
}

// Tiles are cut smaller where oneDNN's scratch, or operands widened to fp32, would not fit.
TEST(GemmCache, CutsTilesToFitTheScratch) {
  constexpr std::int64_t m = 500, n = 600, k = 500;
  constexpr std::size_t kLimit = std::size_t{96} << 10;
  HostTensor a(DType::BF16, {k, m}), b(DType::BF16, {k, n}), c(DType::BF16, {m, n}), cut_c(DType::BF16, {m, n});
  a.fill_normal("a");
  b.fill_normal("b");
  const GemmShape shape{.kind = MatmulKind::TN,
                        .ab = DType::BF16,
                        .c = DType::BF16,
                        .m = m,
                        .n = n,
                        .k = k,
                        .lda = m,
                        .ldb = n,
                        .ldc = n};
  const ThreadCount two(2);
  GemmCache whole, cut(kLimit);
  EXPECT_GT(cut.tiles(shape), whole.tiles(shape));
  testing::Memory memory(GemmCache::workspace_bytes());
  whole.run({memory.data(), memory.size()}, shape, c.data, a.data, b.data);
  cut.run({memory.data(), 2 * kLimit}, shape, cut_c.data, a.data, b.data);
  EXPECT_LT(testing::relative_l2(cut_c.values(), c.values()), 1e-3);  // some sums round the other way
  EXPECT_THROW(whole.run({memory.data(), 2 * kLimit}, shape, c.data, a.data, b.data), Error);
}

// The scheduler decides which thread takes which tile, and the result must not depend on it; more threads than cores
// make it vary.
TEST(GemmCache, SameBitsWhicheverThreadTakesATile) {
  constexpr std::int64_t m = 400, n = 320, k = 900;
  const ThreadCount five(5);
  GemmCache gemms;
  testing::Memory memory(GemmCache::workspace_bytes());
  for (const DType dtype : {DType::F32, DType::BF16}) {
    HostTensor a(dtype, {m, k}), b(dtype, {n, k}), first(dtype, {m, n}), c(dtype, {m, n});
    a.fill_normal("a");
    b.fill_normal("b");
    const GemmShape shape{.ab = dtype, .c = dtype, .m = m, .n = n, .k = k, .lda = k, .ldb = k, .ldc = n};
    EXPECT_GT(gemms.tiles(shape), 5);
    for (int i = 0; i < 10; ++i) {
      gemms.run({memory.data(), memory.size()}, shape, i == 0 ? first.data : c.data, a.data, b.data);
      EXPECT_TRUE(i == 0 || same_bits(c, first)) << i;
    }
  }
}

// A token's row has the same bits whatever other rows are in the product: otherwise copies of an expert would not be
// copies. (On AVX-512 oneDNN cuts sums of more than some 384 terms by the number of rows.)
TEST(GemmCache, ARowsSumsDoNotDependOnHowManyRowsThereAre) {
  GemmCache gemms;
  testing::Memory scratch(GemmCache::workspace_bytes());
  const Workspace workspace{scratch.data(), scratch.size()};
  constexpr std::int64_t M = 512;
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const MatmulKind kind : {MatmulKind::NT, MatmulKind::NN})
      for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{20, 24}, {48, 100}, {132, 300}}) {
        HostTensor row(dtype, {1, k}), a(dtype, {M, k}), c(dtype, {M, n});
        HostTensor b(dtype, kind == MatmulKind::NT ? std::initializer_list<std::int64_t>{n, k}
                                                   : std::initializer_list<std::int64_t>{k, n});
        row.fill_normal("row");
        b.fill_normal("b");
        for (std::int64_t i = 0; i < M * k; ++i) a.set(i, row.get(i % k));
        std::vector<double> first;
        for (std::int64_t m = 16; m <= M; m += 16) {
          SCOPED_TRACE(fmt::format("{} {} m {} n {} k {}", name_of(dtype), static_cast<int>(kind), m, n, k));
          const GemmShape s = checked_matmul(kind, c.slice_rows(0, m), a.slice_rows(0, m), b, Store::Overwrite);
          gemms.run(workspace, s, c.data, a.data, b.data);
          for (std::int64_t i = 0; i < m; ++i)
            for (std::int64_t j = 0; j < n; ++j) {
              if (m == 16 && i == 0) first.push_back(c.get(0, j));
              ASSERT_EQ(c.get(i, j), first[static_cast<std::size_t>(j)]) << i << ", " << j;
            }
        }
      }
}

// The second run of these tests, which claims to emulate an older processor, must really do so.
TEST(GemmCache, WidensBf16AsTheEnvironmentSays) {
  const char* const isa = std::getenv("ONEDNN_MAX_CPU_ISA");
  const bool older = isa != nullptr && std::string(isa) == "AVX2";
  EXPECT_EQ(GemmCache().widens_bf16(), older || __builtin_cpu_supports("avx512bf16") == 0);
}

// Widened or not, bf16 gives what exact products of its numbers, summed, are when rounded once: small whole numbers,
// whose sums fp32 holds exactly, reveal any other rounding.
TEST(GemmCache, Bf16IsRoundedOnceFromTheWholeSum) {
  constexpr std::int64_t m = 37, n = 50, k = 1000;  // more than one block of k
  for (const MatmulKind kind : {MatmulKind::NT, MatmulKind::NN, MatmulKind::TN}) {
    const bool ta = kind == MatmulKind::TN, tb = kind == MatmulKind::NT;
    HostTensor a(DType::BF16, {ta ? k : m, ta ? m : k}), b(DType::BF16, {tb ? n : k, tb ? k : n}),
        c(DType::BF16, {m, n});
    for (std::int64_t i = 0; i < a.size(); ++i) set(a, i, static_cast<double>(i * 7919 % 23) - 9);
    for (std::int64_t i = 0; i < b.size(); ++i) set(b, i, static_cast<double>(i * 104729 % 19) - 7);
    OpBench bench({});
    bench.ops->matmul(*bench.stream, bench.workspace, kind, c, a, b, Store::Overwrite);
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (std::int64_t p = 0; p < k; ++p) sum += (ta ? a.get(p, i) : a.get(i, p)) * (tb ? b.get(j, p) : b.get(p, j));
        ASSERT_EQ(c.get(i, j), to_float(to_bf16(static_cast<float>(sum)))) << i << ", " << j;
      }
  }
}

// A long product gives transfers a chance in between; its rows equal those of the shorter products that it is cut into.
TEST(GemmCache, LongProductsPollBetweenTheirPieces) {
  struct Counter final : Progress {
    int polls = 0;
    void poll() override { ++polls; }
    void finish(std::uint64_t) override {}
  } counter;
  OpBench bench({});
  bench.stream->attach(counter);
  constexpr std::int64_t m = 600, n = 2048, k = 3600;
  for (const MatmulKind kind : {MatmulKind::NT, MatmulKind::NN, MatmulKind::TN}) {
    const bool ta = kind == MatmulKind::TN, tb = kind == MatmulKind::NT;
    HostTensor a(DType::BF16, {ta ? k : m, ta ? m : k}), b(DType::BF16, {tb ? n : k, tb ? k : n}),
        c(DType::F32, {m, n});
    a.fill_normal("a");
    b.fill_normal("b");
    c.fill_normal("c");
    const std::vector<double> before = c.values();
    counter.polls = 0;
    bench.ops->matmul(*bench.stream, bench.workspace, kind, c, a, b, Store::Accumulate);
    EXPECT_EQ(counter.polls, 2);
    for (const std::int64_t i : {0, 299, 300, 599})
      for (const std::int64_t j : {0, 1000, 2047}) {
        double sum = before[static_cast<std::size_t>(i * n + j)], magnitude = std::abs(sum);
        for (std::int64_t p = 0; p < k; ++p) {
          const double product = (ta ? a.get(p, i) : a.get(i, p)) * (tb ? b.get(j, p) : b.get(p, j));
          sum += product;
          magnitude += std::abs(product);
        }
        EXPECT_NEAR(c.get(i, j), sum, 4e-7 * magnitude) << i << ", " << j;
      }
  }
  bench.stream->detach(counter);
}

}  // namespace
}  // namespace upcycle
