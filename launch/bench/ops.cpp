#include "launch/bench/ops.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>

#include "kernels/ops.h"
#include "launch/bench/decode_ops.h"
#include "launch/bench/family_ops.h"
#include "launch/bench/operands.h"
#include "launch/check_fits.h"
#include "launch/normal_operands.h"
#include "launch/yardstick.h"

namespace upcycle {
namespace {

using Clock = std::chrono::steady_clock;

// Offsets of the experts' segments, as in sort_by_expert.
std::vector<std::int64_t> segments(const Backend& b, const Operands& o) {
  std::vector<std::int32_t> counts(static_cast<std::size_t>(o.E));
  b.device->copy_to_host(*b.stream, counts.data(), o.counts.data, o.counts.bytes());
  b.stream->synchronize();
  std::vector<std::int64_t> offsets{0};
  for (const std::int32_t n : counts)
    offsets.push_back(offsets.back() + (n + kExpertRowAlign - 1) / kExpertRowAlign * kExpertRowAlign);
  return offsets;
}

// FLOPs of causal attention over T tokens in sequences of S: half of full attention's.
double attention_flops(const Operands& o, std::int64_t S) {
  return 2.0 * static_cast<double>(o.T) * static_cast<double>(S) * static_cast<double>(o.N * o.D);
}

std::vector<OpCase> dense_cases(const Backend& b, const Config& c, const Operands& o) {
  Ops& ops = *b.ops;
  Stream& s = *b.stream;
  const Workspace w{o.scratch.data, o.scratch.bytes()};
  const std::int64_t S = c.train.seq_length, q = o.N * o.D, kv = o.K * o.D, columns = q + 2 * kv;
  const auto part = [=](const Tensor& t, int i) {
    return t.slice_columns(i == 0 ? 0 : q + (i - 1) * kv, i == 0 ? q : q + i * kv);
  };
  const PackedSequences all{o.offsets, c.train.micro_batch_size, S};
  const double qkv_flops = product_flops(o.T, columns, o.H), head = product_flops(o.T, o.V, o.H);
  return {
      {"matmul NT (qkv)",
       qkv_flops,
       {&o.x, &o.qkv_weight, &o.qkv},
       [=, &ops, &s, &o] { ops.matmul(s, w, MatmulKind::NT, o.qkv, o.x, o.qkv_weight); }},
      {"matmul NN (qkv, input gradient)",
       qkv_flops,
       {&o.y, &o.qkv_weight, &o.dqkv},
       [=, &ops, &s, &o] { ops.matmul(s, w, MatmulKind::NN, o.y, o.dqkv, o.qkv_weight); }},
      {"matmul TN (qkv, weight gradient +=)",
       qkv_flops,
       {&o.x, &o.dqkv, &o.qkv_grad, &o.qkv_grad},
       [=, &ops, &s, &o] { ops.matmul(s, w, MatmulKind::TN, o.qkv_grad, o.dqkv, o.x, Store::Accumulate); }},
      {"embedding_forward",
       0,
       {&o.x, &o.x},
       [=, &ops, &s, &o] { ops.embedding_forward(s, o.y, o.vocabulary, o.tokens, 0); }},
      {"embedding_backward",
       0,
       {&o.y, &o.y, &o.y},
       [=, &ops, &s, &o] { ops.embedding_backward(s, w, o.dvocabulary, o.y, o.tokens, 0); }},
      {"rms_norm_forward (+ residual)",
       0,
       {&o.x, &o.x, &o.x, &o.y},
       [=, &ops, &s, &o] { ops.rms_norm_forward(s, o.y, o.rstd, o.x, o.x, o.y, o.norm_weight, 1e-5F); }},
      {"rms_norm_backward",
       0,
       {&o.x, &o.x, &o.x, &o.y},
       [=, &ops, &s, &o] { ops.rms_norm_backward(s, w, o.y, o.fp32_h, o.x, o.x, o.norm_weight, o.rstd); }},
      {"rope",
       0,
       {&o.qkv, &o.qkv},
       [=, &ops, &s, &o] { ops.rope(s, o.qkv.slice_columns(0, q + kv), o.D, o.rope_table, o.positions, false); }},
      {"attention_forward",
       attention_flops(o, S),
       {&o.qkv, &o.attention, &o.lse},
       [=, &ops, &s, &o] {
         ops.attention_forward(s, w, o.attention, o.lse, part(o.qkv, 0), part(o.qkv, 1), part(o.qkv, 2), o.D, all, all);
       }},
      {"attention_backward",
       2.5 * attention_flops(o, S),
       {&o.qkv, &o.dqkv, &o.attention, &o.attention, &o.lse},
       [=, &ops, &s, &o] {
         ops.attention_backward(s, w, part(o.dqkv, 0), part(o.dqkv, 1), part(o.dqkv, 2), o.attention, part(o.qkv, 0),
                                part(o.qkv, 1), part(o.qkv, 2), o.attention, o.lse, o.D, all, all);
       }},
      {"swiglu_forward", 0, {&o.gate_up, &o.mlp}, [=, &ops, &s, &o] { ops.swiglu_forward(s, o.mlp, o.gate_up); }},
      {"swiglu_backward",
       0,
       {&o.gate_up, &o.gate_up, &o.mlp},
       [=, &ops, &s, &o] { ops.swiglu_backward(s, o.dgate_up, o.mlp, o.gate_up); }},
      {"linear_xent_stats",
       head,
       {&o.x, &o.vocabulary},
       [=, &ops, &s, &o] {
         ops.linear_xent_stats(s, w, o.stats.reshaped({o.T, 3}), o.x, o.vocabulary, o.targets, 0, o.V);
       }},
      {"xent_combine",
       0,
       {&o.stats},
       [=, &ops, &s, &o] { ops.xent_combine(s, o.rstd, o.row_lse, o.sum, o.stats, o.targets); }},
      // The logits are recomputed: three products.
      {"linear_xent_backward",
       3 * head,
       {&o.x, &o.y, &o.vocabulary, &o.dvocabulary, &o.dvocabulary},
       [=, &ops, &s, &o] {
         ops.linear_xent_backward(s, w, o.y, o.dvocabulary, o.x, o.vocabulary, o.targets, o.row_lse, 0, o.V, 1e-3F);
       }},
      {"add", 0, {&o.x, &o.x, &o.y}, [=, &ops, &s, &o] { ops.add(s, o.x, o.x, o.y); }},
      {"sum_squares", 0, {&o.grad}, [=, &ops, &s, &o] { ops.sum_squares(s, w, o.sum, o.grad); }},
      {"adamw",
       0,
       {&o.param, &o.master, &o.master, &o.m, &o.m, &o.v, &o.v, &o.grad},
       [=, &ops, &s, &o] {
         ops.adamw(s, {o.param, o.master, o.m, o.v, o.grad}, o.scale, {1e-4F, 0.9F, 0.95F, 1e-8F, 0.1F, 1});
       }},
      {"lion",
       0,
       {&o.param, &o.master, &o.master, &o.m, &o.m, &o.grad},
       [=, &ops, &s, &o] {
         ops.lion(s, {o.param, o.master, o.m, {}, o.grad}, o.scale, {1e-4F, 0.9F, 0.99F, 0.1F});
       }},
  };
}

// Ordered so that each op's inputs have been computed before it.
std::vector<OpCase> moe_cases(const Backend& b, const Operands& o) {
  Ops& ops = *b.ops;
  Stream& s = *b.stream;
  const Workspace w{o.scratch.data, o.scratch.bytes()};
  constexpr RouterSoftmax order = RouterSoftmax::TopkThenSoftmax;
  ops.router_forward(s, o.probs, o.experts, o.weights, o.router_lse, o.logits, order);
  ops.sort_by_expert(s, w, o.counts, o.source, o.slot, o.experts, kExpertRowAlign);
  const std::vector<std::int64_t> offsets = segments(b, o);
  const double flops = product_flops(o.T * o.k, 2 * o.moe_F, o.H);
  return {
      {"router_forward",
       0,
       {&o.logits, &o.probs, &o.experts, &o.weights},
       [=, &ops, &s, &o] { ops.router_forward(s, o.probs, o.experts, o.weights, o.router_lse, o.logits, order); }},
      {"sort_by_expert",
       0,
       {&o.experts, &o.slot, &o.source},
       [=, &ops, &s, &o] { ops.sort_by_expert(s, w, o.counts, o.source, o.slot, o.experts, kExpertRowAlign); }},
      {"gather_rows", 0, {&o.rows, &o.rows}, [=, &ops, &s, &o] { ops.gather_rows(s, o.rows, o.x, o.source); }},
      {"grouped_matmul NT (gate and up)",
       flops,
       {&o.rows, &o.expert_weight, &o.expert_gate_up},
       [=, &ops, &s, &o] {
         ops.grouped_matmul(s, w, MatmulKind::NT, o.expert_gate_up, o.rows, o.expert_weight, offsets);
       }},
      {"combine_rows", 0, {&o.rows, &o.y}, [=, &ops, &s, &o] { ops.combine_rows(s, o.y, o.rows, o.slot, o.weights); }},
      {"combine_rows_backward",
       0,
       {&o.rows, &o.drows, &o.y},
       [=, &ops, &s, &o] { ops.combine_rows_backward(s, o.drows, o.dweights, o.y, o.rows, o.slot, o.weights); }},
  };
}

// Seconds per call: the fastest of several rounds, each of enough calls to be timed.
double time_of(const Backend& b, const std::function<void()>& run, double seconds) {
  const auto round = [&](int calls) {
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) run();
    b.stream->synchronize();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  (void)round(1);  // warm-up: creates primitives, chooses algorithms
  const double once = round(1);
  const int calls = static_cast<int>(std::clamp(seconds / 4 / once, 1.0, 1000.0));
  double best = once;
  for (int i = 0; i < 3; ++i) best = std::min(best, round(calls) / calls);
  return best;
}

// More than caches hold.
std::size_t large(const Backend& b) { return std::min<std::size_t>(std::size_t{256} << 20, memory_of(b) / 16); }

// Bytes read and written per second by a copy of at most 256 MiB.
double copy_bandwidth(const Backend& b, double seconds) {
  const std::size_t bytes = large(b);
  Arena arena("copy measurement");
  Tensor from, to;
  const auto layout = [&] {
    from = arena.take(DType::F32, {static_cast<std::int64_t>(bytes / 4)});
    to = arena.take(DType::F32, {static_cast<std::int64_t>(bytes / 4)});
  };
  layout();
  arena.allocate(*b.device);
  layout();
  {
    NormalOperands normal;
    Staging staging(*b.device, *b.stream);
    normal.write(staging, from);
  }
  const double t = time_of(
      b, [&] { b.device->copy(*b.stream, CopyKind::OnDevice, to.data, from.data, from.bytes()); }, seconds);
  return 2 * static_cast<double>(from.bytes()) / t;
}

}  // namespace

void bench_ops(const Backend& backend, const Config& config, double seconds, bool json) {
  Operands o = sizes_of(config);
  Arena arena("operands");
  Tensor weights;
  const auto layout = [&] {
    take_all(arena, o, config, *backend.ops);
    weights = arena.take(config.storage(), {static_cast<std::int64_t>(large(backend) / size_of(config.storage()))});
  };
  layout();
  check_fits_machine(backend, {{"operands", arena.high_water()}});
  const double peak = measure_peak_flops(backend, config.storage()), bandwidth = copy_bandwidth(backend, seconds);
  arena.allocate(*backend.device);
  layout();
  fill_all(backend, o, config.train.seq_length);
  {
    NormalOperands normal;
    Staging staging(*backend.device, *backend.stream);
    normal.write(staging, weights);
  }
  backend.ops->prepare(limits_of(config));
  std::vector<OpCase> cases = dense_cases(backend, config, o);
  if (o.E > 0)
    for (OpCase& one : moe_cases(backend, o)) cases.push_back(std::move(one));
  for (OpCase& one : family_cases(backend, o)) cases.push_back(std::move(one));
  for (OpCase& one : decode_cases(backend, o, weights)) cases.push_back(std::move(one));

  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  if (!json)
    fmt::print(
        "roof: {:.1f} GFLOP/s of large matrix products, {:.1f} GB/s of a large copy\n\n| op | us | GFLOP/s | GB/s | of "
        "its roof |\n|--|--|--|--|--|\n",
        peak / 1e9, bandwidth / 1e9);
  for (const OpCase& one : cases) {
    double bytes = one.other_bytes;
    for (const Tensor* t : one.touched) bytes += static_cast<double>(t->bytes());
    const double t = time_of(backend, one.run, seconds), share = std::max(one.flops / peak, bytes / bandwidth) / t;
    if (json)
      rows.push_back(
          {{"op", one.name}, {"us", t * 1e6}, {"flops", one.flops}, {"bytes", bytes}, {"share_of_roof", share}});
    else
      fmt::print("| {} | {:.1f} | {:.1f} | {:.1f} | {:.0f} % |\n", one.name, t * 1e6, one.flops / t / 1e9,
                 bytes / t / 1e9, 100 * share);
  }
  if (json)
    fmt::print("{}\n",
               nlohmann::ordered_json{
                   {"peak_gflops", peak / 1e9}, {"copy_gb_s", bandwidth / 1e9}, {"dtype", config.dtype}, {"ops", rows}}
                   .dump());
}

}  // namespace upcycle
