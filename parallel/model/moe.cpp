#include <algorithm>

#include "parallel/model/dispatch.h"
#include "parallel/model/transformer.h"

// Mixture of experts: route, send each token's rows to its experts' ranks, one grouped SwiGLU over the local experts,
// send back, and add up with the router's weights in token order.
//   etp = 1:  an expert is whole on a rank; each tp rank sends its own T_local tokens (ep may span tp: folding).
//   etp = tp: an expert's F is cut over tp; every tp rank sends all T tokens and holds a part of each sum, which
//             sequence parallelism's reduce-scatter adds up.
namespace upcycle {
namespace {

// What the experts see of a layer: T_local or T tokens with their routing.
struct Routed {
  Tensor x, experts, weights;  // (tokens, H), i32 (tokens, k), fp32 (tokens, k)
};

bool cut_over_tp(const Transformer& m) { return m.mesh->layout.etp > 1; }

Routed routed_tokens(Transformer& m, std::int64_t layer) {
  const LayerState& a = m.activations.layers[static_cast<std::size_t>(layer)];
  const Scratch& c = m.activations.scratch;
  if (!cut_over_tp(m)) return {a.mlp_norm, a.moe.experts, a.moe.weights};
  m.stream->wait(m.mesh->tp->all_gather(c.all_experts, a.moe.experts));
  m.stream->wait(m.mesh->tp->all_gather(c.all_weights, a.moe.weights));
  return {gather_sequence(m, a.mlp_norm, c.gathered), c.all_experts, c.all_weights};
}

struct TokenRange {
  std::int64_t begin, end;
  Tensor of(const Tensor& t) const { return t.slice_rows(begin, end); }
};
TokenRange round_of(const DispatchPlan& plan, std::int64_t round, std::int64_t tokens) {
  const std::int64_t step = (tokens + plan.rounds - 1) / plan.rounds;
  return {std::min(round * step, tokens), std::min((round + 1) * step, tokens)};
}

// Tokens -> experts' outputs in slot layout, left in moe.output.
void experts_forward(Transformer& m, std::int64_t layer, const Tensor& x) {
  const auto l = static_cast<std::size_t>(layer);
  const LayerWeights& w = m.weights.layers[l];
  const MoeState& moe = m.activations.layers[l].moe;
  const Scratch& c = m.activations.scratch;
  const DispatchPlan& plan = m.plans[l];
  const bool travels = m.mesh->ep->size() > 1;
  const Tensor slots = (travels ? c.slots : moe.input).slice_rows(0, plan.slot_rows);
  m.ops->gather_rows(*m.stream, slots, x, moe.source.slice_rows(0, plan.slot_rows));
  const Tensor input = to_experts(m, layer, plan, moe.input, slots);
  const auto rows = [R = plan.offsets.back()](const Tensor& t) { return t.slice_rows(0, R); };
  m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::NT, rows(moe.gate_up), input, w.expert_gate_up,
                        plan.offsets);
  m.ops->swiglu_forward(*m.stream, rows(moe.act), rows(moe.gate_up));
  const Tensor output = rows(travels ? c.expert_rows : moe.output);
  m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::NT, output, rows(moe.act), w.expert_down, plan.offsets);
  (void)from_experts(m, layer, plan, moe.output, output);
}

// dout (tokens, H) -> dweights (tokens, k), expert gradients, and dx (tokens, H) stored as `store` says.
void experts_backward(Transformer& m, std::int64_t layer, const Tensor& dx, const Tensor& dweights, const Tensor& dout,
                      const Tensor& weights, Store store) {
  const auto l = static_cast<std::size_t>(layer);
  const LayerWeights& w = m.weights.layers[l];
  const LayerWeights& g = m.gradients.layers[l];
  const MoeState& moe = m.activations.layers[l].moe;
  const Scratch& c = m.activations.scratch;
  const DispatchPlan& plan = m.plans[l];
  const bool travels = m.mesh->ep->size() > 1;
  const auto rows = [R = plan.offsets.back()](const Tensor& t) { return t.slice_rows(0, R); };
  const Tensor slot = moe.slot.slice_rows(0, dout.rows());
  const Tensor dact = rows(c.expert_dact), dgate_up = rows(c.expert_dgate_up);

  const Tensor dslots = (travels ? c.slots : c.expert_rows).slice_rows(0, plan.slot_rows);
  if (!travels) m.ops->fill(*m.stream, dslots, 0);  // padding rows must not carry an old buffer's bits into dW
  m.ops->combine_rows_backward(*m.stream, dslots, dweights, dout, moe.output.slice_rows(0, plan.slot_rows), slot,
                               weights);
  const Tensor drows = to_experts(m, layer, plan, c.expert_rows, dslots);
  m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::TN, g.expert_down, drows, rows(moe.act), plan.offsets,
                        Store::Accumulate);
  m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::NN, dact, drows, w.expert_down, plan.offsets);
  m.ops->swiglu_backward(*m.stream, dgate_up, dact, rows(moe.gate_up));
  m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::TN, g.expert_gate_up, dgate_up, rows(moe.input),
                        plan.offsets, Store::Accumulate);
  // The output's gradient has served: its rows take the input's.
  m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::NN, drows, dgate_up, w.expert_gate_up, plan.offsets);
  const Tensor back = from_experts(m, layer, plan, c.slots, drows);
  m.ops->combine_rows(*m.stream, dx, back, slot, Tensor{}, store);
}

}  // namespace

void moe_forward(Transformer& m, std::int64_t layer, double share, bool replay) {
  const Scratch& c = m.activations.scratch;
  const MoeState& moe = m.activations.layers[static_cast<std::size_t>(layer)].moe;
  DispatchPlan& plan = m.plans[static_cast<std::size_t>(layer)];
  route(m, layer, share, replay);
  const Routed t = routed_tokens(m, layer);
  const Tensor out = cut_over_tp(m) ? c.partial : c.branch;
  if (m.config.shared_expert) {
    if (cut_over_tp(m)) {
      mlp_partial_forward(m, layer, replay ? Tensor{} : out, t.x);
    } else {
      mlp_forward(m, layer, replay);
    }
  }
  const Store store = m.config.shared_expert ? Store::Accumulate : Store::Overwrite;
  plan_dispatch(m, layer, t.experts, plan);
  for (std::int64_t r = 0; r < plan.rounds; ++r) {
    const TokenRange range = round_of(plan, r, t.x.rows());
    if (plan.rounds > 1) plan_round(m, layer, range.of(t.experts));
    if (replay && plan.rounds > 1) continue;  // the backward makes each round's again
    experts_forward(m, layer, range.of(t.x));
    if (replay) continue;
    m.ops->combine_rows(*m.stream, range.of(out), moe.output.slice_rows(0, plan.slot_rows),
                        moe.slot.slice_rows(0, range.end - range.begin), range.of(t.weights), store);
  }
  if (cut_over_tp(m) && !replay) reduce_sequence(m, c.branch);
}

void moe_backward(Transformer& m, std::int64_t layer, double share) {
  const Scratch& c = m.activations.scratch;
  DispatchPlan& plan = m.plans[static_cast<std::size_t>(layer)];
  const bool cut = cut_over_tp(m);
  const Routed t = routed_tokens(m, layer);
  const Tensor dout = cut ? gather_sequence(m, c.dx, c.dgathered) : c.dx;
  const Tensor dx = cut ? c.partial : c.dnorm, dweights = cut ? c.all_dweights : c.dweights;
  if (m.config.shared_expert) {
    if (cut) {
      mlp_partial_backward(m, layer, dx, dout, t.x);
    } else {
      mlp_backward(m, layer);
    }
  }
  const Store store = m.config.shared_expert ? Store::Accumulate : Store::Overwrite;
  for (std::int64_t r = 0; r < plan.rounds; ++r) {
    const TokenRange range = round_of(plan, r, t.x.rows());
    if (plan.rounds > 1) {  // only one round's activations exist at a time: this one's are made again
      plan_round(m, layer, range.of(t.experts));
      experts_forward(m, layer, range.of(t.x));
    }
    experts_backward(m, layer, range.of(dx), range.of(dweights), range.of(dout), range.of(t.weights), store);
  }
  if (cut) {
    m.stream->wait(m.mesh->tp->all_reduce(c.all_dweights));
    const std::int64_t rows = m.T_local(), first = rows * m.mesh->at.tp;
    m.ops->convert(*m.stream, c.dweights, c.all_dweights.slice_rows(first, first + rows));
    reduce_sequence(m, c.dnorm);
  }
  route_backward(m, layer, share);
}

}  // namespace upcycle
