#include <fmt/core.h>

#include <initializer_list>

#include "kernels/cpu/cpu_ops.h"
#include "tests/cuda_host/emulation/runtime_internal.h"
#include "tests/kernels/op_fixture.h"

// The CUDA backend against the CPU's on the same inputs, in shapes that tests/kernels does not reach: rows that begin
// at multiples of 16 bytes (128-bit accesses) and rows that do not, more groups than a block has threads, ragged ends.
namespace upcycle {
namespace {

using testing::relative_l2;

struct CudaRowsTest : OpTest {
  std::unique_ptr<Device> cpu_device = make_cpu_device();
  std::unique_ptr<Stream> cpu_stream = cpu_device->make_stream();
  std::unique_ptr<Ops> cpu = make_cpu_ops();
  testing::Bytes scratch, cpu_scratch;

  Workspace workspace(const Ops& of, testing::Bytes& bytes, const OpLimits& limits) {
    bytes.assign(of.workspace_bytes(limits) + 64, std::byte{0x5a});
    void* at = bytes.data();
    std::size_t space = bytes.size();
    std::align(64, 1, at, space);
    return {at, space};
  }
  ~CudaRowsTest() override { schedule(emul::Order::forward, 1); }
  static void schedule(emul::Order order, std::uint64_t seed) {
    emul::options().order = order;
    emul::options().seed = seed;
  }

  // f(ops, stream, output) on the CPU, and on CUDA with threads and blocks in several orders: near the CPU's, the same
  // bits in every order, gaps left alone.
  template <class F>
  void expect_same(const HostTensor& start, double tolerance, const F& f) {
    const auto run = [&](Ops& on_ops, Stream& on) {
      HostTensor out(start.dtype, {start.rows(), start.columns()}, start.gap);
      for (std::int64_t i = 0; i < start.size(); ++i) out.set(i, start.get(i));
      f(on_ops, on, out);
      on.synchronize();
      return out;
    };
    const HostTensor want = run(*cpu, *cpu_stream);
    schedule(emul::Order::forward, 1);
    const HostTensor first = run(*ops, *stream);
    EXPECT_LE(relative_l2(first.values(), want.values()), tolerance);
    EXPECT_TRUE(first.gaps_untouched());
    const auto bytes = static_cast<std::size_t>(first.rows() * first.row_stride) * size_of(first.dtype);
    for (const auto& [order, seed] : {std::pair<emul::Order, std::uint64_t>{emul::Order::reverse, 1},
                                      {emul::Order::random, 2},
                                      {emul::Order::random, 3}}) {
      schedule(order, seed);
      EXPECT_EQ(std::memcmp(run(*ops, *stream).data, first.data, bytes), 0) << "order " << static_cast<int>(order);
    }
  }
};

double near(DType dtype) { return dtype == DType::F32 ? 1e-6 : 0x1p-9; }

HostTensor normal(DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t gap, const char* name) {
  HostTensor t(dtype, {rows, columns}, gap);
  t.fill_normal(name);
  return t;
}

struct Shape {
  std::int64_t rows, columns, gap;
};
// Aligned, wider than a block; aligned with a ragged end; unaligned; narrow, so that rows share a block.
const Shape kShapes[] = {{3, 4168, 8}, {5, 1027, 5}, {2, 2100, 1}, {301, 24, 8}, {77, 6, 2}, {1, 9001, 0}};

TEST_F(CudaRowsTest, FillConvertAdd) {
  for (const Shape& s : kShapes) {
    for (const DType to : {DType::F32, DType::BF16, DType::F64}) {
      SCOPED_TRACE(fmt::format("{} ({}, {}) gap {}", name_of(to), s.rows, s.columns, s.gap));
      const HostTensor out = normal(to, s.rows, s.columns, s.gap, "out");
      expect_same(out, 0, [](Ops& o, Stream& on, const Tensor& t) { o.fill(on, t, 3); });
      for (const DType from : {DType::F32, DType::BF16, DType::F64}) {
        const HostTensor x = normal(from, s.rows, s.columns, s.gap, "x");
        expect_same(out, 0, [&](Ops& o, Stream& on, const Tensor& t) { o.convert(on, t, x); });
        if (from == DType::F64 || to == DType::F64) continue;
        for (const DType other : {DType::F32, DType::BF16}) {
          const HostTensor y = normal(other, s.rows, s.columns, s.gap, "y");
          expect_same(out, 0, [&](Ops& o, Stream& on, const Tensor& t) { o.add(on, t, x, y); });
        }
      }
    }
  }
}

TEST_F(CudaRowsTest, Swiglu) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const Shape& s : {Shape{3, 4168, 8}, {5, 1027, 5}, {301, 24, 8}, {77, 6, 2}}) {
      SCOPED_TRACE(fmt::format("{} ({}, {}) gap {}", name_of(dtype), s.rows, s.columns, s.gap));
      const HostTensor out = normal(dtype, s.rows, s.columns, s.gap, "out"),
                       gate_up = normal(dtype, s.rows, 2 * s.columns, s.gap, "gate_up");
      for (const GateActivation a : {GateActivation::Silu, GateActivation::GeluTanh}) {
        expect_same(out, near(dtype),
                    [&](Ops& o, Stream& on, const Tensor& t) { o.swiglu_forward(on, t, gate_up, a); });
        expect_same(normal(dtype, s.rows, 2 * s.columns, s.gap, "d"), near(dtype),
                    [&](Ops& o, Stream& on, const Tensor& t) { o.swiglu_backward(on, t, out, gate_up, a); });
      }
    }
  }
}

TEST_F(CudaRowsTest, Rope) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const auto& [T, heads, D, gap] :
         {std::array<std::int64_t, 4>{37, 3, 64, 8}, {9, 33, 128, 16}, {40, 5, 14, 3}}) {
      SCOPED_TRACE(fmt::format("{} T {} heads {} D {}", name_of(dtype), T, heads, D));
      const HostTensor table = random_tensor(DType::F32, {50, D}, "table"), positions(DType::I32, {T});
      for (std::int64_t t = 0; t < T; ++t) set(positions, t, static_cast<double>((t * 7 + 3) % 50));
      for (const bool inverse : {false, true})
        expect_same(normal(dtype, T, heads * D, gap, "x"), near(dtype),
                    [&](Ops& o, Stream& on, const Tensor& x) { o.rope(on, x, D, table, positions, inverse); });
    }
  }
}

// H beyond two rounds of the narrow and of the wide blocks; more rows than dweight has parts.
TEST_F(CudaRowsTest, RmsNorm) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const Shape& s : {Shape{3, 4168, 8}, {2, 1000, 8}, {4, 1027, 5}, {5, 121, 2}, {603, 40, 8}, {259, 13, 1}}) {
      SCOPED_TRACE(fmt::format("{} ({}, {}) gap {}", name_of(dtype), s.rows, s.columns, s.gap));
      const std::int64_t T = s.rows, H = s.columns;
      OpLimits limits;
      limits.H = H;
      const HostTensor x = normal(dtype, T, H, s.gap, "x"), delta = normal(dtype, T, H, s.gap, "delta"),
                       weight = random_tensor(dtype, {H}, "weight"), dout = normal(dtype, T, H, s.gap, "dout"),
                       sum(dtype, {T, H}, s.gap), rstd(DType::F32, {T}), out(dtype, {T, H}, s.gap);
      for (const NormWeight kind : {NormWeight::Plain, NormWeight::UnitOffset}) {
        for (const bool with_delta : {false, true})
          expect_same(out, near(dtype), [&](Ops& o, Stream& on, const Tensor& t) {
            o.rms_norm_forward(on, t, rstd, with_delta ? Tensor(sum) : Tensor(), x,
                               with_delta ? Tensor(delta) : Tensor(), weight, 1e-5f, kind);
          });
        const auto backward = [&](Ops& o, Stream& on, const Tensor& dx, const Tensor& dweight) {
          const Workspace w = &o == ops.get() ? workspace(o, scratch, limits) : workspace(o, cpu_scratch, limits);
          o.rms_norm_backward(on, w, dx, dweight, dout, x, weight, rstd, kind);
        };
        expect_same(normal(dtype, T, H, s.gap, "dx"), near(dtype),
                    [&](Ops& o, Stream& on, const Tensor& dx) { backward(o, on, dx, HostTensor(DType::F32, {H})); });
        expect_same(normal(DType::F32, 1, H, 0, "dweight"), 1e-6, [&](Ops& o, Stream& on, const Tensor& dweight) {
          backward(o, on, HostTensor(dtype, {T, H}), dweight.reshaped({H}));
        });
      }
    }
  }
}

// One tile of the sort, several, and more of their counts than the scan has threads; a vocabulary of one, two and three
// digits; one token that fills the batch; tokens held elsewhere. The sums are the CPU's to the bit: both add in token
// order.
TEST_F(CudaRowsTest, Embedding) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const auto& [T, V, H, gap] : {std::array<std::int64_t, 4>{2500, 300, 24, 8},
                                       {9001, 500, 3, 0},
                                       {1100, 70000, 5, 3},
                                       {130, 7, 2056, 8},
                                       {1500, 255, 9, 0},
                                       {1, 256, 8, 0}}) {
      for (const bool all_the_same : {false, true}) {
        SCOPED_TRACE(fmt::format("{} T {} V {} H {}", name_of(dtype), T, V, H));
        OpLimits limits;
        limits.T = T, limits.V = V, limits.H = H;
        const HostTensor tokens(DType::I32, {T}), table = random_tensor(dtype, {V, H}, "table"),
                                                  dout = normal(dtype, T, H, gap, "dout");
        for (std::int64_t t = 0; t < T; ++t)
          set(tokens, t, static_cast<double>(all_the_same ? 10 + V - 1 : t * t * 31 % (V + 20)));
        expect_same(dout, 0,
                    [&](Ops& o, Stream& on, const Tensor& out) { o.embedding_forward(on, out, table, tokens, 10); });
        expect_same(normal(DType::F32, V, H, 0, "dtable"), 0, [&](Ops& o, Stream& on, const Tensor& dtable) {
          o.embedding_backward(on, workspace(o, scratch, limits), dtable, dout, tokens, 10);
        });
      }
    }
  }
}

TEST_F(CudaRowsTest, Optimizers) {
  const HostTensor scale(DType::F32, {1});
  set(scale, 0, 0.3);
  const AdamwStep step{1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 3};
  for (const std::int64_t n : {1, 7, 2048, 40003}) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      const HostTensor grad = random_tensor(DType::F32, {n}, "grad"), m = random_tensor(DType::F32, {n}, "m", 0.1),
                       v = random_tensor(DType::F32, {n}, "v", 0.1), master = random_tensor(DType::F32, {n}, "w");
      for (std::int64_t i = 0; i < n; ++i) set(v, i, std::abs(v.get(i)));
      // The state of a run is its own; of its outputs one at a time is compared.
      for (const int which : {0, 1, 2, 3}) {
        const HostTensor& start = which == 1 ? m : which == 2 ? v : master;
        HostTensor out(which == 3 ? dtype : DType::F32, {1, n});
        for (std::int64_t i = 0; i < n; ++i) out.set(i, start.get(i));
        expect_same(out, which == 3 ? near(dtype) : 1e-6, [&](Ops& o, Stream& on, const Tensor& t) {
          const Tensor flat = t.reshaped({n});
          const HostTensor w = copy_of(master), first = copy_of(m), second = copy_of(v), p(dtype, {n});
          o.adamw(on,
                  {which == 3 ? flat : Tensor(p), which == 0 ? flat : Tensor(w), which == 1 ? flat : Tensor(first),
                   which == 2 ? flat : Tensor(second), grad},
                  scale, step);
          on.synchronize();
        });
        if (which == 2) continue;
        expect_same(out, which == 3 ? near(dtype) : 1e-6, [&](Ops& o, Stream& on, const Tensor& t) {
          const Tensor flat = t.reshaped({n});
          const HostTensor w = copy_of(master), first = copy_of(m), p(dtype, {n});
          o.lion(on,
                 {which == 3 ? flat : Tensor(p),
                  which == 0 ? flat : Tensor(w),
                  which == 1 ? flat : Tensor(first),
                  {},
                  grad},
                 scale, {1e-2f, 0.9f, 0.99f, 0.1f});
          on.synchronize();
        });
        if (which == 1) continue;
        expect_same(out, which == 3 ? near(dtype) : 1e-6, [&](Ops& o, Stream& on, const Tensor& t) {
          const Tensor flat = t.reshaped({n});
          const HostTensor w = copy_of(master), p(dtype, {n});
          o.sgd(on, {which == 3 ? flat : Tensor(p), which == 0 ? flat : Tensor(w), {}, {}, grad}, scale, 0.1f, 0.2f);
          on.synchronize();
        });
      }
    }
  }
}

// The order of the sum follows from the size alone: a tensor that begins anywhere gives the same bits.
TEST_F(CudaRowsTest, SumOfSquaresDoesNotDependOnTheAddress) {
  for (const std::int64_t n : {1, 4099, 20003}) {
    const HostTensor x = random_tensor(DType::F32, {n}, "x"), room(DType::F32, {n + 8});
    std::vector<double> sums;
    for (const std::int64_t at : {0, 1, 2, 3, 4}) {
      const Tensor moved = room.slice_rows(at, at + n);
      copy_host(moved, x);
      const HostTensor out(DType::F64, {1});
      ops->sum_squares(*stream, workspace(*ops, scratch, {}), out, moved);
      stream->synchronize();
      sums.push_back(out.get(0));
    }
    for (const double s : sums) EXPECT_EQ(s, sums[0]);
  }
}

}  // namespace
}  // namespace upcycle
