#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "kernels/cpu/cpu_ops.h"
#include "tests/kernels/op_fixture.h"

// Every op with a kernel on shapes so small that a data race detector can follow each thread, ragged, and still so
// large that loops run twice: near the CPU's numbers.
namespace upcycle {
namespace {

using Results = std::vector<HostTensor>;
using Calls = std::function<Results(Ops&, Stream&, Workspace)>;

struct SmallShapes : OpTest, ::testing::WithParamInterface<DType> {
  std::unique_ptr<Device> cpu_device = make_cpu_device();
  std::unique_ptr<Stream> cpu_stream = cpu_device->make_stream();
  std::unique_ptr<Ops> cpu_ops = make_cpu_ops();
  DType dtype = GetParam();
  double near = dtype == DType::F32 ? 2e-6 : 6e-3;

  void compare(const OpLimits& limits, const Calls& calls) {
    const auto run = [&](Ops& o, Stream& s) {
      testing::Bytes scratch(o.workspace_bytes(limits) + 64, std::byte{0xff});  // NaN
      void* at = scratch.data();
      std::size_t space = scratch.size();
      std::align(64, 1, at, space);
      return calls(o, s, {at, space});
    };
    const Results want = run(*cpu_ops, *cpu_stream), got = run(*ops, *stream), again = run(*ops, *stream);
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_LE(testing::relative_l2(got[i].values(), want[i].values()), want[i].dtype == DType::I32 ? 0 : near)
          << "result " << i;
      EXPECT_TRUE(same_bits(got[i], again[i])) << "result " << i;
    }
  }
  HostTensor normal(std::initializer_list<std::int64_t> shape, const char* name, DType type) const {
    return random_tensor(type, shape, name);
  }
};
INSTANTIATE_TEST_SUITE_P(Types, SmallShapes, ::testing::Values(DType::F32, DType::BF16),
                         [](const auto& p) { return std::string(name_of(p.param)); });

// Three tiles of keys, a ragged one last; a second sequence.
TEST_P(SmallShapes, Attention) {
  for (const auto& [D, N, K] : {std::array<std::int64_t, 3>{64, 2, 1}, {128, 1, 1}}) {
    const std::int64_t T = 150;
    HostTensor offsets(DType::I32, {3});
    set(offsets, 1, 141);
    set(offsets, 2, T);
    const PackedSequences sequences{offsets, 2, 141};
    const HostTensor q = normal({T, N * D}, "q", dtype), k = normal({T, K * D}, "k", dtype),
                     v = normal({T, K * D}, "v", dtype), dout = normal({T, N * D}, "dout", dtype);
    compare({.T = T, .H = N * D, .N = N, .K = K, .D = D, .dtype = dtype},
            [&, D = D, N = N, K = K](Ops& o, Stream& s, Workspace w) {
              Results r{HostTensor(dtype, {T, N * D}), HostTensor(DType::F32, {N, T}), HostTensor(dtype, {T, N * D}),
                        HostTensor(dtype, {T, K * D}), HostTensor(dtype, {T, K * D})};
              o.attention_forward(s, w, r[0], r[1], q, k, v, D, sequences, sequences);
              o.attention_backward(s, w, r[2], r[3], r[4], dout, q, k, v, r[0], r[1], D, sequences, sequences);
              return r;
            });
  }
}

// A prompt's chunk and single rows with one range of keys and with two; a row past the last sequence.
TEST_P(SmallShapes, PagedAttention) {
  for (const auto& [D, N, K] : {std::array<std::int64_t, 3>{64, 2, 1}, {128, 1, 1}, {6, 5, 1}}) {
    const std::int64_t T = 12, P = 64, pages = 9, most = 5;
    const HostTensor offsets(DType::I32, {4}), lengths(DType::I32, {3}), table(DType::I32, {3, most});
    for (const auto& [i, begin, keys] : {std::array<std::int64_t, 3>{0, 0, 260}, {1, 1, 70}, {2, 10, 3}, {3, 11, 0}}) {
      set(offsets, i, static_cast<double>(begin));
      if (i < 3) set(lengths, i, static_cast<double>(keys));
    }
    for (std::int64_t i = 0; i < 3 * most; ++i) set(table, i, static_cast<double>(i * 2 % pages));
    const PagedSequences sequences{offsets, lengths, table, 3, 9, 260};
    const HostTensor q = normal({T, N * D}, "q", dtype), k = normal({pages * P, K * D}, "k", dtype),
                     v = normal({pages * P, K * D}, "v", dtype), slots(DType::I32, {pages * P});
    for (std::int64_t t = 0; t < slots.size(); ++t) set(slots, t, static_cast<double>((t * 7 + 3) % slots.size()));
    compare({.T = T, .H = N * D, .N = N, .K = K, .D = D, .keys = 260, .sequences = 3, .dtype = dtype},
            [&, D = D, N = N, K = K](Ops& o, Stream& s, Workspace w) {
              Results r{HostTensor(dtype, {T, N * D}), HostTensor(dtype, {pages, K, P, D}),
                        HostTensor(dtype, {pages, K, P, D})};
              o.store_in_pages(s, {r[1], r[2]}, k, v, slots);
              o.paged_attention(s, w, r[0], q, {r[1], r[2]}, sequences);
              return r;
            });
  }
}

TEST_P(SmallShapes, LinearXent) {
  const std::int64_t T = 6, V = 2100, H = 5, valid = 2090;
  const HostTensor x = normal({T, H}, "x", dtype), weight = normal({V, H}, "weight", dtype);
  HostTensor targets(DType::I32, {T});
  for (std::int64_t t = 0; t < T; ++t) set(targets, t, t == 3 ? -1.0 : static_cast<double>(t * 7919 % valid));
  compare({.T = T, .H = H, .V = V, .dtype = dtype}, [&](Ops& o, Stream& s, Workspace w) {
    Results r{HostTensor(DType::F32, {1, T, 3}), HostTensor(DType::F32, {T}), HostTensor(DType::F32, {T}),
              HostTensor(DType::F64, {1}),       HostTensor(dtype, {T, H}),   HostTensor(DType::F32, {V, H})};
    o.linear_xent_stats(s, w, r[0].reshaped({T, 3}), x, weight, targets, 0, valid);
    o.xent_combine(s, r[1], r[2], r[3], r[0], targets);
    o.linear_xent_backward(s, w, r[4], r[5], x, weight, targets, r[2], 0, valid, 0.25f);
    return r;
  });
}

TEST_P(SmallShapes, RmsNorm) {
  for (const auto& [T, H] : {std::pair<std::int64_t, std::int64_t>{2, 4104}, {270, 9}, {3, 1029}}) {
    const HostTensor x = normal({T, H}, "x", dtype), delta = normal({T, H}, "delta", dtype),
                     weight = normal({H}, "weight", dtype), dout = normal({T, H}, "dout", dtype);
    compare({.H = H, .dtype = dtype}, [&, T = T, H = H](Ops& o, Stream& s, Workspace w) {
      Results r{HostTensor(dtype, {T, H}), HostTensor(DType::F32, {T}), HostTensor(dtype, {T, H}),
                HostTensor(dtype, {T, H}), HostTensor(DType::F32, {H}), HostTensor(dtype, {T, H})};
      o.rms_norm_forward(s, r[0], r[1], r[2], x, delta, weight, 1e-5f);
      o.rms_norm_backward(s, w, r[3], r[4], dout, r[2], weight, r[1]);
      o.rms_norm_forward(s, r[5], r[1], r[2], x, delta, weight, 1e-5f, NormWeight::UnitOffset);
      o.rms_norm_backward(s, w, r[3], r[4], dout, r[2], weight, r[1], NormWeight::UnitOffset);
      return r;
    });
  }
}

TEST_P(SmallShapes, BiasesAndNormsOfHeads) {
  for (const std::int64_t D : {9, 16}) {
    const std::int64_t T = 135, heads = 3, H = heads * D;
    const HostTensor x = normal({T, H}, "x", dtype), weight = normal({D}, "weight", dtype),
                     bias = normal({H}, "bias", dtype), dout = normal({T, H}, "dout", dtype);
    compare({.bias = H, .head_norm = D, .dtype = dtype}, [&](Ops& o, Stream& s, Workspace w) {
      Results r{copy_of(x),
                HostTensor(DType::F32, {T, heads}),
                HostTensor(DType::F32, {T, heads}),
                HostTensor(dtype, {T, H}),
                copy_of(dout),
                HostTensor(DType::F32, {D}),
                HostTensor(DType::F32, {H})};
      o.add_bias(s, r[0], bias);
      o.head_dots(s, r[1], r[0], r[0], {});
      o.head_norm_forward(s, r[3], r[0], weight, r[1], D, 1e-5f);
      o.head_dots(s, r[2], r[4], r[0], weight);
      o.head_norm_backward(s, w, r[4], r[5], r[4], r[0], weight, r[1], r[2], D, 1e-5f);
      o.bias_backward(s, w, r[6], r[4]);
      return r;
    });
  }
}

TEST_P(SmallShapes, RowsAndElements) {
  const std::int64_t T = 5, heads = 3, D = 14, H = heads * D;
  const HostTensor x = normal({T, H}, "x", dtype), gate_up = normal({T, 2 * H}, "gate_up", dtype),
                   table = normal({T, D}, "table", DType::F32), positions(DType::I32, {T});
  for (std::int64_t t = 0; t < T; ++t) set(positions, t, static_cast<double>(t * 3 % T));
  compare({}, [&](Ops& o, Stream& s, Workspace) {
    Results r{copy_of(x),
              HostTensor(dtype, {T, H}),
              HostTensor(dtype, {T, 2 * H}),
              HostTensor(DType::F64, {T, H}),
              HostTensor(DType::F32, {T, H}),
              HostTensor(dtype, {3, 1003}),
              HostTensor(dtype, {T, H}),
              HostTensor(dtype, {T, 2 * H})};
    o.rope(s, r[0], D, table, positions, false);
    o.swiglu_forward(s, r[1], gate_up);
    o.swiglu_backward(s, r[2], x, gate_up);
    o.swiglu_forward(s, r[6], gate_up, GateActivation::GeluTanh);
    o.swiglu_backward(s, r[7], x, gate_up, GateActivation::GeluTanh);
    o.convert(s, r[3], x);
    o.add(s, r[4], x, x);
    o.fill(s, r[5], 3);
    return r;
  });
}

// Greedy, all tokens, and the last kept token among equal ones, by number and by mass.
TEST_P(SmallShapes, SampleTokens) {
  const std::int64_t rows = 4, V = 300, vocabulary = 590;
  const HostTensor logits(DType::F32, {2, rows, V}), temperature(DType::F32, {rows}), top_k(DType::I32, {rows}),
      top_p(DType::F32, {rows}), uniform(DType::F32, {rows});
  for (std::int64_t i = 0; i < logits.size(); ++i) set(logits, i, static_cast<double>(i * 37 % 11));
  for (std::int64_t r = 0; r < rows; ++r) {
    set(temperature, r, r == 0 ? 0 : 1);
    set(top_k, r, r == 2 ? 70 : 0);
    set(top_p, r, r == 3 ? 0.8 : 1);
    set(uniform, r, 0.4);
  }
  compare({.sequences = rows, .vocabulary = vocabulary}, [&](Ops& o, Stream& s, Workspace w) {
    Results r{HostTensor(DType::I32, {rows})};
    o.sample_tokens(s, w, r[0], logits, vocabulary, {temperature, top_k, top_p, uniform});
    return r;
  });
}

TEST_P(SmallShapes, Embedding) {
  const std::int64_t T = 1300, V = 300, H = 3;
  const HostTensor table = normal({V, H}, "table", dtype), dout = normal({T, H}, "dout", dtype),
                   tokens(DType::I32, {T});
  for (std::int64_t t = 0; t < T; ++t) set(tokens, t, static_cast<double>(t * t % (V + 20)));
  compare({.T = T, .H = H, .V = V, .dtype = dtype}, [&](Ops& o, Stream& s, Workspace w) {
    Results r{HostTensor(dtype, {T, H}), HostTensor(DType::F32, {V, H})};
    o.embedding_forward(s, r[0], table, tokens, 10);
    o.embedding_backward(s, w, r[1], dout, tokens, 10);
    return r;
  });
}

TEST_P(SmallShapes, Router) {
  for (const RouterSoftmax order : {RouterSoftmax::TopkThenSoftmax, RouterSoftmax::SoftmaxThenTopk}) {
    const std::int64_t T = 70, E = 40, k = 34;
    const HostTensor logits = normal({T, E}, "logits", DType::F32), dweights = normal({T, k}, "dw", DType::F32);
    compare({.E = E}, [&](Ops& o, Stream& s, Workspace w) {
      Results r{HostTensor(DType::F32, {T, E}), HostTensor(DType::I32, {T, k}),  HostTensor(DType::F32, {T, k}),
                HostTensor(DType::F32, {T}),    HostTensor(DType::F32, {T, k}),  HostTensor(DType::F64, {2 * E + 2}),
                HostTensor(DType::F32, {E}),    HostTensor(DType::F64, {4 + E}), HostTensor(DType::F32, {T, E})};
      o.router_forward(s, r[0], r[1], r[2], r[3], logits, order);
      o.router_weights(s, r[0], r[4], r[3], logits, r[1], order);
      o.router_stats(s, w, r[5], r[0], r[1], r[3]);
      o.router_losses(s, r[6], r[7], r[5], {}, T, k, 0.5, 0.01);
      o.router_backward(s, r[8], dweights, r[0], r[1], r[2], r[3], r[6], 0.1f, order);
      return r;
    });
  }
}

TEST_P(SmallShapes, SigmoidRouter) {
  for (const RouterSoftmax order : {RouterSoftmax::TopkThenSoftmax, RouterSoftmax::SoftmaxThenTopk}) {
    const std::int64_t T = 70, E = 40, k = 34;
    const HostTensor logits = normal({T, E}, "logits", DType::F32), dweights = normal({T, k}, "dw", DType::F32),
                     bias = normal({E}, "bias", DType::F32), scale = normal({E}, "scale", DType::F32);
    compare({.E = E}, [&](Ops& o, Stream& s, Workspace) {
      Results r{HostTensor(DType::F32, {T, E}), HostTensor(DType::I32, {T, k}), HostTensor(DType::F32, {T, k}),
                HostTensor(DType::F32, {T}),    HostTensor(DType::F32, {T, k}), HostTensor(DType::F32, {T, E})};
      o.sigmoid_router_forward(s, r[0], r[1], r[2], r[3], logits, bias, order);
      o.sigmoid_router_weights(s, r[0], r[4], r[3], logits, r[1], order);
      o.sigmoid_router_backward(s, r[5], dweights, r[0], r[1], r[2], r[3], logits, scale, 0.1f, order);
      return r;
    });
  }
}

TEST_P(SmallShapes, Dispatch) {
  const std::int64_t T = 301, k = 2, E = 40, R = T * k + E * 15, H = 9;
  HostTensor experts(DType::I32, {T, k});
  for (std::int64_t i = 0; i < T * k; ++i) set(experts, i, static_cast<double>(i * i * 7 % (E - 3)));
  const HostTensor weights = normal({T, k}, "weights", DType::F32), x = normal({T, H}, "x", dtype),
                   dout = normal({T, H}, "dout", dtype);
  compare({.E = E}, [&](Ops& o, Stream& s, Workspace w) {
    Results r{HostTensor(DType::I32, {E}),   HostTensor(DType::I32, {R}), HostTensor(DType::I32, {T, k}),
              HostTensor(dtype, {R, H}),     HostTensor(dtype, {T, H}),   HostTensor(dtype, {R, H}),
              HostTensor(DType::F32, {T, k})};
    r[5].fill_value(0);
    o.sort_by_expert(s, w, r[0], r[1], r[2], experts, 16);
    o.gather_rows(s, r[3], x, r[1]);
    o.combine_rows(s, r[4], r[3], r[2], weights);
    o.combine_rows_backward(s, r[5], r[6], dout, r[3], r[2], weights);
    return r;
  });
}

TEST_P(SmallShapes, Optimizers) {
  const std::int64_t n = 4099;
  const HostTensor grad = normal({n}, "grad", DType::F32), start = normal({n}, "w", DType::F32);
  compare({}, [&](Ops& o, Stream& s, Workspace w) {
    Results r{copy_of(start), HostTensor(DType::F32, {n}), HostTensor(DType::F32, {n}), HostTensor(dtype, {n}),
              copy_of(start), HostTensor(dtype, {n}),      HostTensor(DType::F64, {1}), HostTensor(DType::F32, {1}),
              copy_of(start), HostTensor(DType::F32, {n}), HostTensor(dtype, {n})};
    for (HostTensor* t : {&r[1], &r[2], &r[6], &r[9]}) t->fill_value(0);
    o.sum_squares(s, w, r[6], grad);
    o.clip_scale(s, r[7], r[6], 1);
    o.adamw(s, {r[3], r[0], r[1], r[2], grad}, r[7], {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 1});
    o.sgd(s, {r[5], r[4], {}, {}, grad}, r[7], 0.1f, 0.2f);
    o.lion(s, {r[10], r[8], r[9], {}, grad}, r[7], {1e-2f, 0.9f, 0.99f, 0.1f});
    return r;
  });
}

}  // namespace
}  // namespace upcycle
