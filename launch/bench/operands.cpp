#include "launch/bench/operands.h"

#include <functional>

#include "core/rng.h"
#include "core/staging.h"
#include "kernels/ops.h"
#include "launch/normal_operands.h"
#include "parallel/model/activations.h"
#include "parallel/train/trainer.h"

namespace upcycle {
namespace {

void write_integers(Staging& staging, const Tensor& to, const std::function<std::int64_t(std::int64_t)>& value) {
  staging.write(to, [&](void* host, std::int64_t first, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i)
      static_cast<std::int32_t*>(host)[i] = static_cast<std::int32_t>(value(first + i));
  });
}
std::int64_t draw(std::int64_t below, std::int64_t i) {
  return static_cast<std::int64_t>(rng::below(static_cast<std::uint64_t>(below), 1, 0, static_cast<std::uint64_t>(i)));
}

}  // namespace

OpLimits limits_of(const Config& c) {
  const Layout alone;
  return op_limits(sizes_of(c.model, alone, Coordinates{}), training_pass(c), alone);
}

Operands sizes_of(const Config& c) {
  const OpLimits l = limits_of(c);
  Operands o{};
  o.T = l.T, o.H = l.H, o.F = l.F, o.N = l.N, o.K = l.K, o.D = l.D, o.V = l.V;
  o.E = l.E, o.k = l.k, o.moe_F = l.moe_F, o.R = l.R;
  return o;
}

void take_all(Arena& a, Operands& o, const Config& c, const Ops& ops) {
  const DType t = c.storage();
  const std::int64_t columns = (o.N + 2 * o.K) * o.D, B = c.train.micro_batch_size;
  o.x = a.take(t, {o.T, o.H}), o.y = a.take(t, {o.T, o.H});
  o.norm_weight = a.take(t, {o.H}), o.rstd = a.take(DType::F32, {o.T}), o.fp32_h = a.take(DType::F32, {o.H});
  o.qkv = a.take(t, {o.T, columns}), o.qkv_weight = a.take(t, {columns, o.H});
  o.qkv_grad = a.take(DType::F32, {columns, o.H}), o.dqkv = a.take(t, {o.T, columns});
  o.attention = a.take(t, {o.T, o.N * o.D}), o.lse = a.take(DType::F32, {o.N, o.T});
  o.positions = a.take(DType::I32, {o.T}), o.rope_table = a.take(DType::F32, {c.train.seq_length, o.D});
  o.offsets = a.take(DType::I32, {B + 1});
  o.gate_up = a.take(t, {o.T, 2 * o.F}), o.dgate_up = a.take(t, {o.T, 2 * o.F}), o.mlp = a.take(t, {o.T, o.F});
  o.vocabulary = a.take(t, {o.V, o.H}), o.dvocabulary = a.take(DType::F32, {o.V, o.H});
  o.tokens = a.take(DType::I32, {o.T}), o.targets = a.take(DType::I32, {o.T});
  o.stats = a.take(DType::F32, {1, o.T, 3}), o.row_lse = a.take(DType::F32, {o.T});
  o.master = a.take(DType::F32, {o.V * o.H}), o.m = a.take(DType::F32, {o.V * o.H});
  o.v = a.take(DType::F32, {o.V * o.H}), o.param = a.take(t, {o.V * o.H}), o.grad = a.take(DType::F32, {o.V * o.H});
  o.scale = a.take(DType::F32, {1}), o.sum = a.take(DType::F64, {1});
  o.bias = a.take(t, {columns}), o.dbias = a.take(DType::F32, {columns});
  o.squares = a.take(DType::F32, {o.T, o.N}), o.dots = a.take(DType::F32, {o.T, o.N});
  o.head_weight = a.take(t, {o.D}), o.head_grad = a.take(DType::F32, {o.D});
  o.gate_x = a.take(t, {o.T, o.H}), o.gate_weight = a.take(t, {o.H});
  if (o.E > 0) {
    o.logits = a.take(DType::F32, {o.T, o.E}), o.probs = a.take(DType::F32, {o.T, o.E});
    o.experts = a.take(DType::I32, {o.T, o.k}), o.weights = a.take(DType::F32, {o.T, o.k});
    o.router_lse = a.take(DType::F32, {o.T}), o.counts = a.take(DType::I32, {o.E});
    o.source = a.take(DType::I32, {o.R}), o.slot = a.take(DType::I32, {o.T, o.k});
    o.dweights = a.take(DType::F32, {o.T, o.k});
    o.rows = a.take(t, {o.R, o.H}), o.drows = a.take(t, {o.R, o.H});
    o.expert_gate_up = a.take(t, {o.R, 2 * o.moe_F});
    o.expert_weight = a.take(t, {o.E, 2 * o.moe_F, o.H});
  }
  o.scratch = a.take(DType::F32, {static_cast<std::int64_t>(ops.workspace_bytes(limits_of(c)) / 4 + 1)});
}

void fill_all(const Backend& b, Operands& o, std::int64_t S) {
  Staging staging(*b.device, *b.stream);
  NormalOperands normal;
  write_integers(staging, o.tokens, [&](std::int64_t i) { return draw(o.V, i); });
  write_integers(staging, o.targets, [&](std::int64_t i) { return draw(o.V, i + 1); });
  write_integers(staging, o.positions, [&](std::int64_t i) { return i % S; });
  write_integers(staging, o.offsets, [&](std::int64_t i) { return i * S; });
  if (o.E > 0) normal.write(staging, o.logits);
  for (const Tensor& to :
       {o.x, o.y, o.norm_weight, o.qkv, o.dqkv, o.qkv_weight, o.gate_up, o.mlp, o.attention, o.vocabulary, o.rows,
        o.expert_gate_up, o.expert_weight, o.master, o.grad, o.bias, o.head_weight})
    if (to) normal.write(staging, to);
  for (const Tensor& to : {o.scale, o.gate_x, o.gate_weight}) b.ops->fill(*b.stream, to, 1);
}

}  // namespace upcycle
