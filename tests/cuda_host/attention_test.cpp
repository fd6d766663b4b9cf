#include <fmt/core.h>

#include <functional>
#include <utility>

#include "kernels/cpu/cpu_ops.h"
#include "tests/cuda_host/emulation/runtime_internal.h"
#include "tests/kernels/op_fixture.h"

// Attention and the projection with cross-entropy: the CPU's numbers, on tensor cores and without, and the same bits in
// whatever order a GPU would run blocks and threads.
namespace upcycle {
namespace {

using Results = std::vector<HostTensor>;
using Calls = std::function<Results(Ops&, Stream&, Workspace)>;

struct SchedulesOnCuda : OpTest {
  std::unique_ptr<Device> cpu_device = make_cpu_device();
  std::unique_ptr<Stream> cpu_stream = cpu_device->make_stream();
  std::unique_ptr<Ops> cpu_ops = make_cpu_ops();
  emul::Options before = emul::options();
  ~SchedulesOnCuda() override { emul::options() = before; }

  void compare(const OpLimits& limits, double tolerance, const Calls& run) {
    const auto with = [&](Ops& o, Stream& s) {
      testing::Bytes scratch(o.workspace_bytes(limits), std::byte{0xff});  // NaN
      Results r = run(o, s, {scratch.data(), scratch.size()});
      s.synchronize();
      return r;
    };
    const Results want = with(*cpu_ops, *cpu_stream), first = with(*ops, *stream);
    for (std::size_t i = 0; i < want.size(); ++i)
      EXPECT_LT(testing::relative_l2(first[i].values(), want[i].values()), tolerance) << "result " << i;
    for (const auto& [order, threads] :
         {std::pair{emul::Order::forward, 1}, {emul::Order::reverse, 1}, {emul::Order::random, 2}}) {
      emul::options().order = order;
      emul::options().os_threads = threads;
      const Results again = with(*ops, *stream);
      for (std::size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(same_bits(again[i], first[i])) << "result " << i;
    }
    emul::options() = before;
  }
};

// Heads of every kernel's width, whole and ragged; groups that do not divide a tile; a second sequence; rows that lie
// apart, at multiples of 16 bytes and at others, which tensor cores do not take.
TEST_F(SchedulesOnCuda, Attention) {
  struct Case {
    std::int64_t D, N, K, gap = 0;
  };
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const auto& [D, N, K, gap] :
         {Case{64, 6, 2}, {128, 2, 1, 8}, {64, 2, 1, 3}, {40, 5, 1}, {100, 2, 2}, {256, 2, 1}}) {
      SCOPED_TRACE(fmt::format("{} D {} N {} K {} gap {}", name_of(dtype), D, N, K, gap));
      const std::int64_t T = 170;
      HostTensor q(dtype, {T, N * D}, gap), k(dtype, {T, K * D}, gap), v(dtype, {T, K * D}, gap),
          dout(dtype, {T, N * D}, gap);
      q.fill_normal("q"), k.fill_normal("k"), v.fill_normal("v"), dout.fill_normal("dout");
      HostTensor offsets(DType::I32, {3});
      set(offsets, 1, 149);
      set(offsets, 2, T);
      const PackedSequences sequences{offsets, 2, 149};
      compare({.T = T, .H = N * D, .N = N, .K = K, .D = D, .dtype = dtype}, dtype == DType::F32 ? 2e-6 : 6e-3,
              [&, D = D, N = N, K = K, gap = gap](Ops& o, Stream& s, Workspace w) {
                Results r{HostTensor(dtype, {T, N * D}, gap), HostTensor(DType::F32, {N, T}),
                          HostTensor(dtype, {T, N * D}, gap), HostTensor(dtype, {T, K * D}, gap),
                          HostTensor(dtype, {T, K * D}, gap)};
                o.attention_forward(s, w, r[0], r[1], q, k, v, D, sequences, sequences);
                o.attention_backward(s, w, r[2], r[3], r[4], dout, q, k, v, r[0], r[1], D, sequences, sequences);
                s.synchronize();
                for (const HostTensor& t : r) EXPECT_TRUE(t.gaps_untouched());
                return r;
              });
    }
}

TEST_F(SchedulesOnCuda, LinearXent) {
  const std::int64_t T = 75, V = 4200, H = 24, valid = 4150;
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const HostTensor x = random_tensor(dtype, {T, H}, "x"), weight = random_tensor(dtype, {V, H}, "weight", 0.3);
    HostTensor targets(DType::I32, {T});
    for (std::int64_t t = 0; t < T; ++t) set(targets, t, t % 7 == 3 ? -1.0 : static_cast<double>(t * 7919 % valid));
    compare({.T = T, .H = H, .V = V, .dtype = dtype}, dtype == DType::F32 ? 2e-6 : 4e-3,
            [&](Ops& o, Stream& s, Workspace w) {
              Results r{HostTensor(DType::F32, {1, T, 3}), HostTensor(DType::F32, {T}), HostTensor(DType::F32, {T}),
                        HostTensor(DType::F64, {1}),       HostTensor(dtype, {T, H}),   HostTensor(DType::F32, {V, H})};
              o.linear_xent_stats(s, w, r[0].reshaped({T, 3}), x, weight, targets, 0, valid);
              o.xent_combine(s, r[1], r[2], r[3], r[0], targets);
              o.linear_xent_backward(s, w, r[4], r[5], x, weight, targets, r[2], 0, valid, 0.25f);
              return r;
            });
  }
}

}  // namespace
}  // namespace upcycle
