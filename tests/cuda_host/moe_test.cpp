#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "kernels/cpu/cpu_ops.h"
#include "tests/cuda_host/emulation/runtime_internal.h"
#include "tests/kernels/op_fixture.h"

// The ops of the mixture of experts and of the joined cross-entropy: the CPU's numbers, and the same bits in whatever
// order a GPU would run blocks and threads.
namespace upcycle {
namespace {

using Results = std::vector<HostTensor>;

struct MoeOnCuda : OpTest {
  std::unique_ptr<Device> cpu_device = make_cpu_device();
  std::unique_ptr<Stream> cpu_stream = cpu_device->make_stream();
  std::unique_ptr<Ops> cpu_ops = make_cpu_ops();

  using Run = std::function<Results(Ops&, Stream&, Workspace)>;

  // `relative`: of each result's largest number.
  void compare(const OpLimits& limits, double relative, const Run& run) {
    const auto with = [&](Ops& o, Stream& s) {
      testing::Bytes scratch(o.workspace_bytes(limits), std::byte{0x5a});
      return run(o, s, {scratch.data(), scratch.size()});
    };
    const Results want = with(*cpu_ops, *cpu_stream), first = with(*ops, *stream);
    for (std::size_t i = 0; i < want.size(); ++i) {
      const auto a = first[i].values(), b = want[i].values();
      double most = 0;
      for (const double x : b) most = std::max(most, std::abs(x));
      const double allowed = want[i].dtype == DType::I32 ? 0 : relative * most;
      for (std::size_t j = 0; j < b.size(); ++j) ASSERT_NEAR(a[j], b[j], allowed) << "result " << i << " at " << j;
      EXPECT_TRUE(first[i].gaps_untouched()) << i;
    }
    const emul::Options before = emul::options();
    for (const auto& [order, threads] : {std::pair{emul::Order::forward, 1},
                                         {emul::Order::reverse, 1},
                                         {emul::Order::random, 1},
                                         {emul::Order::random, 2}}) {
      emul::options().order = order;
      emul::options().os_threads = threads;
      const Results again = with(*ops, *stream);
      for (std::size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(same_bits(again[i], first[i])) << "result " << i;
    }
    emul::options() = before;
  }
};

TEST_F(MoeOnCuda, Router) {
  for (const RouterSoftmax order : {RouterSoftmax::TopkThenSoftmax, RouterSoftmax::SoftmaxThenTopk})
    for (const auto& [T, E, k] : {std::array<std::int64_t, 3>{137, 8, 2}, {70, 70, 16}, {33, 300, 6}, {9, 512, 40}}) {
      const HostTensor logits = random_tensor(DType::F32, {T, E}, "logits", 2);
      const HostTensor dweights = random_tensor(DType::F32, {T, k}, "dweights");
      compare({.E = E}, 2e-6, [&, T = T, E = E, k = k](Ops& o, Stream& s, Workspace workspace) {
        HostTensor probs(DType::F32, {T, E}), experts(DType::I32, {T, k}), weights(DType::F32, {T, k}),
            lse(DType::F32, {T}), again(DType::F32, {T, k}), stats(DType::F64, {2 * E + 2}), scale(DType::F32, {E}),
            metrics(DType::F64, {4 + E}), dlogits(DType::F32, {T, E}), counted(DType::F64, {E}),
            scale_of_counted(DType::F32, {E});
        for (std::int64_t e = 0; e < E; ++e) counted.set(e, static_cast<double>(1 + e % 5));
        o.router_forward(s, probs, experts, weights, lse, logits, order);
        o.router_weights(s, probs, again, lse, logits, experts, order);
        o.router_stats(s, workspace, stats, probs, experts, lse);
        o.router_losses(s, scale, metrics, stats, {}, T, k, 0.5, 0.01);
        o.router_losses(s, scale_of_counted, metrics, stats, counted, T, k, 0.5, 0.01);
        o.router_backward(s, dlogits, dweights, probs, experts, weights, lse, scale, 0.1f, order);
        return Results{probs, experts, weights, lse, again, stats, scale, metrics, dlogits, scale_of_counted};
      });
    }
}

TEST_F(MoeOnCuda, SigmoidRouter) {
  for (const RouterSoftmax order : {RouterSoftmax::TopkThenSoftmax, RouterSoftmax::SoftmaxThenTopk})
    for (const auto& [T, E, k] : {std::array<std::int64_t, 3>{137, 8, 2}, {70, 70, 16}, {33, 300, 6}, {9, 512, 40}}) {
      const HostTensor logits = random_tensor(DType::F32, {T, E}, "logits", 2);
      const HostTensor bias = random_tensor(DType::F32, {E}, "bias", 0.3), scale = random_tensor(DType::F32, {E}, "s");
      const HostTensor dweights = random_tensor(DType::F32, {T, k}, "dweights");
      compare({.E = E}, 2e-6, [&, T = T, E = E, k = k](Ops& o, Stream& s, Workspace) {
        HostTensor probs(DType::F32, {T, E}), experts(DType::I32, {T, k}), plain(DType::I32, {T, k}),
            weights(DType::F32, {T, k}), lse(DType::F32, {T}), again(DType::F32, {T, k}), dlogits(DType::F32, {T, E});
        o.sigmoid_router_forward(s, probs, plain, weights, lse, logits, {}, order);
        o.sigmoid_router_forward(s, probs, experts, weights, lse, logits, bias, order);
        o.sigmoid_router_weights(s, probs, again, lse, logits, experts, order);
        o.sigmoid_router_backward(s, dlogits, dweights, probs, experts, weights, lse, logits, scale, 0.1f, order);
        return Results{probs, experts, plain, weights, lse, again, dlogits};
      });
    }
}

// More blocks than the warp that adds them up has lanes, and more tokens than the most blocks have at least.
TEST_F(MoeOnCuda, StatsOfManyTokens) {
  for (const std::int64_t T : {2500, 17000}) {
    const std::int64_t E = 3, k = 1;
    HostTensor probs = random_tensor(DType::F32, {T, E}, "probs"), experts(DType::I32, {T, k}),
               lse = random_tensor(DType::F32, {T}, "lse");
    for (std::int64_t t = 0; t < T; ++t) set(experts, t, static_cast<double>(t * t % E));
    for (std::int64_t i = 0; i < T * E; ++i) set(probs, i, std::abs(probs.get(i)));
    compare({.E = E}, 1e-12, [&](Ops& o, Stream& s, Workspace workspace) {
      HostTensor stats(DType::F64, {2 * E + 2});
      o.router_stats(s, workspace, stats, probs, experts, lse);
      return Results{stats};
    });
  }
}

TEST_F(MoeOnCuda, SortAndRows) {
  const std::int64_t T = 701, k = 3, E = 45;
  HostTensor experts(DType::I32, {T, k});
  for (std::int64_t i = 0; i < T * k; ++i)
    set(experts, i, static_cast<double>(rng::below(E - 5, 3, 1, static_cast<std::uint64_t>(i))));
  const HostTensor weights = random_tensor(DType::F32, {T, k}, "weights");
  const std::int64_t R = T * k + E * 15;
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const DType row_type : {DType::F32, DType::BF16})
      for (const auto& [H, gap] : {std::pair<std::int64_t, std::int64_t>{40, 0}, {296, 8}, {37, 3}}) {
        HostTensor x(row_type, {T, H}, gap), dout(dtype, {T, H}, gap);
        x.fill_normal("x");
        dout.fill_normal("dout");
        const bool bf16 = dtype == DType::BF16 || row_type == DType::BF16;
        compare({.E = E}, bf16 ? 1.0 / 256 : 1e-6, [&, H = H, gap = gap](Ops& o, Stream& s, Workspace workspace) {
          HostTensor counts(DType::I32, {E}), source(DType::I32, {R}), slot(DType::I32, {T, k}),
              rows(row_type, {R, H}, gap), out(dtype, {T, H}, gap), drows(row_type, {R, H}, gap),
              dweights(DType::F32, {T, k});
          out.fill_normal("before");
          drows.fill_value(0);
          o.sort_by_expert(s, workspace, counts, source, slot, experts, 16);
          o.gather_rows(s, rows, x, source);
          o.combine_rows(s, out, rows, slot, weights, Store::Accumulate);
          o.combine_rows_backward(s, drows, dweights, dout, rows, slot, weights);
          return Results{counts, source, slot, rows, out, drows, dweights};
        });
      }
}

TEST_F(MoeOnCuda, JoinedCrossEntropy) {
  const std::int64_t T = 1301;
  for (const std::int64_t ranks : {1, 3}) {
    HostTensor stats = random_tensor(DType::F32, {ranks, T, 3}, "stats", 4), targets(DType::I32, {T});
    for (std::int64_t i = 0; i < ranks * T; ++i) stats.set(3 * i + 1, 1 + std::abs(stats.get(3 * i + 1)));
    for (std::int64_t t = 0; t < T; ++t) {
      targets.set(t, t % 7 == 3 ? -1 : static_cast<double>(t));
      if (ranks == 1) continue;
      stats.set(3 * (T + t), -std::numeric_limits<double>::infinity());  // a shard of only padding
      stats.set(3 * (T + t) + 1, 0);
      stats.set(3 * (T + t) + 2, 0);
    }
    compare({}, 1e-6, [&](Ops& o, Stream& s, Workspace) {
      HostTensor nll(DType::F32, {T}), lse(DType::F32, {T}), loss_sum(DType::F64, {1});
      loss_sum.set(0, 5);
      o.xent_combine(s, nll, lse, loss_sum, stats, targets);
      return Results{nll, lse, loss_sum};
    });
  }
}

}  // namespace
}  // namespace upcycle
