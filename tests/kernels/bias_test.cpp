#include "tests/kernels/op_fixture.h"

namespace upcycle {
namespace {

using testing::OpBench;
using testing::relative_l2;

struct BiasTest : OpTest {
  static OpLimits limits(std::int64_t n) {
    OpLimits l;
    l.bias = n;
    return l;
  }
};

constexpr std::pair<std::int64_t, std::int64_t> kSizes[] = {{1, 1}, {5, 43}, {700, 64}, {33, 520}, {0, 8}};

TEST_F(BiasTest, IsAddedToEveryRow) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const auto& [T, n] : kSizes) {
      for (const std::int64_t gap : {0, 3, 8}) {
        SCOPED_TRACE(fmt::format("{} T {} n {} gap {}", name_of(dtype), T, n, gap));
        HostTensor x(dtype, {T, n}, gap);
        x.fill_normal("x");
        const HostTensor bias = random_tensor(dtype, {n}, "bias");
        const std::vector<double> before = x.values();
        ops->add_bias(*stream, x, bias);
        for (std::int64_t i = 0; i < x.size(); ++i) {
          const double sum = before[static_cast<std::size_t>(i)] + bias.get(i % n);
          ASSERT_NEAR(x.get(i), sum, std::abs(sum) * (dtype == DType::BF16 ? 0x1.02p-8 : 0x1p-23)) << i;
        }
        EXPECT_TRUE(x.gaps_untouched());
      }
    }
  }
}

TEST_F(BiasTest, GradientsAreColumnSums) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const auto& [T, n] : kSizes) {
      for (const std::int64_t gap : {0, 5}) {
        SCOPED_TRACE(fmt::format("{} T {} n {} gap {}", name_of(dtype), T, n, gap));
        const OpBench bench(limits(n));
        HostTensor dout(dtype, {T, n}, gap);
        dout.fill_normal("dout");
        const HostTensor dbias = random_tensor(DType::F32, {n}, "dbias");
        std::vector<double> expected = dbias.values();
        for (std::int64_t i = 0; i < dout.size(); ++i) expected[static_cast<std::size_t>(i % n)] += dout.get(i);
        bench.ops->bias_backward(*bench.stream, bench.workspace, dbias, dout);
        EXPECT_LT(relative_l2(dbias.values(), expected), 1e-6);
      }
    }
  }
}

TEST_F(BiasTest, TheSameBitsOnAnyNumberOfThreads) {
  const std::int64_t T = 501, n = 130;
  const HostTensor dout = random_tensor(DType::BF16, {T, n}, "dout");
  const auto run = [&](int threads) {
    const ThreadCount count(threads);
    const OpBench bench(limits(n));
    const HostTensor dbias(DType::F32, {n});
    bench.ops->bias_backward(*bench.stream, bench.workspace, dbias, dout);
    return dbias;
  };
  const HostTensor one = run(1);
  for (const int threads : {1, 2, 3}) EXPECT_TRUE(same_bits(run(threads), one)) << threads;
}

TEST_F(BiasTest, RefusesWhatDoesNotFit) {
  const HostTensor x(DType::F32, {4, 8}), bias(DType::F32, {8}), narrow(DType::F32, {7}), half(DType::BF16, {8});
  EXPECT_THROW(ops->add_bias(*stream, x, narrow), Error);
  EXPECT_THROW(ops->add_bias(*stream, x, half), Error);
  EXPECT_THROW(ops->bias_backward(*stream, {}, narrow, x), Error);
  EXPECT_THROW(ops->bias_backward(*stream, {}, half, x), Error);
}

}  // namespace
}  // namespace upcycle
