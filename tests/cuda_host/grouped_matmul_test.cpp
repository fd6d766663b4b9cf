#include <gtest/gtest.h>

#include "core/error.h"
#include "kernels/cuda/cuda_ops.h"
#include "tests/cuda_host/emulation/runtime_internal.h"
#include "tests/kernels/op_fixture.h"

// What the experts' products have only on CUDA: algorithms chosen beforehand, and streams of their own.
namespace upcycle {
namespace {

// The backend itself: what the other tests get waits after every op.
struct OpBench : testing::OpBench {
  explicit OpBench(const OpLimits& limits) : testing::OpBench(limits) { ops = make_cuda_ops(); }
};

struct GroupedMatmulOnCuda : ::testing::Test {
  emul::Options before = emul::options();
  ~GroupedMatmulOnCuda() override { emul::options() = before; }
};

// The six products of an MLP of E experts, (H -> 2F) and (F -> H).
struct Expert {
  std::int64_t E, H, F, R;
  DType dtype;
  HostTensor x{dtype, {R, H}}, act{dtype, {R, F}}, gate_up{dtype, {R, 2 * F}}, out{dtype, {R, H}};
  HostTensor w1{dtype, {E, 2 * F, H}}, w2{dtype, {E, H, F}};
  HostTensor dw1{DType::F32, {E, 2 * F, H}}, dw2{DType::F32, {E, H, F}};

  Expert(std::int64_t E_, std::int64_t H_, std::int64_t F_, std::int64_t R_, DType dtype_)
      : E(E_), H(H_), F(F_), R(R_), dtype(dtype_) {
    x.fill_normal("x");
    act.fill_normal("act");
    gate_up.fill_value(0);  // rows of no expert, too
    out.fill_value(0);
    w1.fill_normal("w1");
    w2.fill_normal("w2");
    dw1.fill_normal("dw1");
    dw2.fill_normal("dw2");
  }
  OpLimits limits() const { return {.H = H, .E = E, .R = R, .moe_F = F, .dtype = dtype}; }

  // Each product's operand comes from the op's stream and its result goes there: an event that is not waited for shows.
  void multiply(OpBench& bench, const std::vector<std::int64_t>& offsets) {
    const auto run = [&](MatmulKind kind, const Tensor& c, const Tensor& a, const Tensor& b, Store store) {
      bench.ops->grouped_matmul(*bench.stream, bench.workspace, kind, c, a, b, offsets, store);
    };
    run(MatmulKind::NT, gate_up, x, w1, Store::Overwrite);
    bench.ops->swiglu_forward(*bench.stream, act, gate_up);
    run(MatmulKind::NT, out, act, w2, Store::Overwrite);
    bench.ops->add(*bench.stream, x, x, out);
    run(MatmulKind::TN, dw2, x, act, Store::Accumulate);
    run(MatmulKind::NN, act, x, w2, Store::Overwrite);
    bench.ops->swiglu_backward(*bench.stream, gate_up, act, gate_up);
    run(MatmulKind::TN, dw1, gate_up, x, Store::Accumulate);
    run(MatmulKind::NN, x, gate_up, w1, Store::Overwrite);
    bench.stream->synchronize();
  }
};

std::size_t algorithms(const OpBench& bench) { return dynamic_cast<const CudaOps&>(*bench.ops).chosen_algorithms(); }

// Sizes whose experts' matrices begin at 16, 8 and 4 bytes.
TEST_F(GroupedMatmulOnCuda, NoStepChoosesAnAlgorithm) {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const auto& [H, F] : {std::pair<std::int64_t, std::int64_t>{16, 8}, {6, 6}, {3, 6}}) {
      SCOPED_TRACE(fmt::format("{} H {} F {}", name_of(dtype), H, F));
      Expert e(4, H, F, 96, dtype);
      OpBench bench(e.limits());
      bench.ops->prepare(e.limits());
      const std::size_t prepared = algorithms(bench);
      EXPECT_GE(prepared, 6u);
      for (const std::vector<std::int64_t>& offsets :
           std::vector<std::vector<std::int64_t>>{{0, 16, 48, 48, 96}, {0, 96, 96, 96, 96}, {16, 32, 32, 64, 80}}) {
        e.multiply(bench, offsets);
        EXPECT_EQ(algorithms(bench), prepared);
      }
    }
}

// What the library would do with it is known only on a GPU: the emulation refuses it.
TEST_F(GroupedMatmulOnCuda, AWorkspaceLessAlignedThanCublasLtAsksIsRefused) {
  Expert e(2, 16, 8, 32, DType::F32);
  OpBench bench(e.limits());
  bench.scratch.resize(bench.scratch.size() + Arena::kAlignment);
  void* p = bench.scratch.data();
  std::size_t space = bench.scratch.size();
  std::align(Arena::kAlignment, bench.workspace.bytes, p, space);
  bench.workspace.data = p;
  EXPECT_NO_THROW(e.multiply(bench, {0, 16, 32}));
  emul::options().quiet = true;
  for (const std::size_t off : {64, 128}) {
    bench.workspace.data = static_cast<char*>(p) + off;
    EXPECT_THROW(e.multiply(bench, {0, 16, 32}), Error) << off;
  }
}

// More rows than the ladder has: several products, of rows that it has.
TEST_F(GroupedMatmulOnCuda, AnExpertWithMoreRowsThanTheLadder) {
  const std::int64_t most = std::int64_t{1} << 15;
  for (const DType dtype : {DType::F32, DType::BF16}) {
    Expert e(2, 4, 4, 2 * most + 64, dtype);
    OpBench bench(e.limits());
    bench.ops->prepare(e.limits());
    const std::size_t prepared = algorithms(bench);
    const std::vector<std::int64_t> offsets = {16, 32, 2 * most + 48};
    e.multiply(bench, offsets);
    EXPECT_EQ(algorithms(bench), prepared);
    const HostTensor dw = copy_of(Tensor(e.dw2).reshaped({e.E, e.H * e.F}));
    e.x.fill_normal("x again");
    e.act.fill_normal("act again");
    const auto run = [&](MatmulKind kind, const Tensor& c, const Tensor& a, const Tensor& b, Store store) {
      bench.ops->grouped_matmul(*bench.stream, bench.workspace, kind, c, a, b, offsets, store);
      bench.stream->synchronize();
    };
    run(MatmulKind::NT, e.out, e.act, e.w2, Store::Overwrite);
    run(MatmulKind::TN, e.dw2, e.x, e.act, Store::Accumulate);
    for (const std::int64_t row : {std::int64_t{32}, most + 31, most + 32, 2 * most + 31, 2 * most + 32, 2 * most + 47})
      for (std::int64_t h = 0; h < e.H; ++h) {
        double want = 0;
        for (std::int64_t f = 0; f < e.F; ++f) want += e.act.get(row * e.F + f) * e.w2.get((e.H + h) * e.F + f);
        EXPECT_NEAR(e.out.get(row * e.H + h), want, (dtype == DType::BF16 ? 0x1p-8 : 1e-5) * (1 + std::abs(want)));
      }
    double want = dw.get(e.H * e.F), magnitude = 0;
    for (std::int64_t row = 32; row < 2 * most + 48; ++row) {
      want += e.x.get(row * e.H) * e.act.get(row * e.F);
      magnitude += std::abs(e.x.get(row * e.H) * e.act.get(row * e.F));
    }
    EXPECT_NEAR(e.dw2.get(e.H * e.F), want, 1e-5 * magnitude);
    // To overwrite, the first product of a sum replaces what was there and the others add to it.
    run(MatmulKind::TN, e.dw2, e.x, e.act, Store::Overwrite);
    EXPECT_NEAR(e.dw2.get(e.H * e.F), want - dw.get(e.H * e.F), 1e-5 * magnitude);
  }
}

// Streams pass one another at random: the same bits as one after another.
TEST_F(GroupedMatmulOnCuda, StreamsWaitForEachOther) {
  const std::vector<std::int64_t> offsets = {0, 16, 64, 64, 80, 128, 208, 224};
  const auto results = [&](bool deferred, std::uint64_t seed) {
    emul::options().deferred = deferred;
    emul::options().seed = seed;
    Expert e(7, 24, 16, 240, DType::BF16);
    OpBench bench(e.limits());
    e.multiply(bench, offsets);
    // Before the backend is gone, which waits for its streams.
    return std::vector<std::vector<double>>{e.out.values(), e.x.values(), e.dw1.values(), e.dw2.values()};
  };
  const auto first = results(false, 1);
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const auto again = results(true, seed);
    for (std::size_t i = 0; i < first.size(); ++i)
      EXPECT_TRUE(again[i] == first[i]) << "seed " << seed << " result " << i;
  }
}

}  // namespace
}  // namespace upcycle
