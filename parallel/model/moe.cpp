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

// A layer's tensors of its experts' work.
struct Experts {
  const LayerWeights& w;
  const MoeState& moe;
  const Scratch& c;
  DispatchPlan& plan;
  bool travels;          // ep > 1: slots and expert rows are different buffers
  const Tensor& slots;   // slot layout on the way out: inputs, and outputs' gradients
  const Tensor& output;  // expert rows of the outputs

  Experts(Transformer& m, std::int64_t layer)
      : w(m.weights.layers[static_cast<std::size_t>(layer)]),
        moe(m.activations.layers[static_cast<std::size_t>(layer)].moe),
        c(m.activations.scratch),
        plan(m.plans[static_cast<std::size_t>(layer)]),
        travels(m.mesh->ep->size() > 1),
        slots(travels ? c.slots : moe.input),
        output(travels ? c.expert_rows : moe.output) {}
};

// The tokens' rows start on their way to the experts, all chunks at once.
void start_forward(Transformer& m, std::int64_t layer, const Tensor& x) {
  const Experts e(m, layer);
  for (DispatchChunk& chunk : e.plan.in_use()) {
    m.ops->gather_rows(*m.stream, chunk.slots_of(e.slots), chunk.tokens_of(x), chunk.slots_of(e.moe.source));
    start_to_experts(m, chunk, e.slots);
  }
}

// A chunk that has arrived is computed and starts back, under the next one's products: the experts' outputs in slot
// layout, in moe.output.
void finish_forward(Transformer& m, std::int64_t layer) {
  const Experts e(m, layer);
  for (DispatchChunk& chunk : e.plan.in_use()) {
    const Tensor input = finish_to_experts(m, layer, chunk, e.moe.input, e.slots);
    const Tensor gate_up = chunk.rows_of(e.moe.gate_up), act = chunk.rows_of(e.moe.act);
    m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::NT, gate_up, input, e.w.expert_gate_up, chunk.offsets);
    m.ops->swiglu_forward(*m.stream, act, gate_up);
    m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::NT, chunk.rows_of(e.output), act, e.w.expert_down,
                          chunk.offsets);
    start_from_experts(m, layer, chunk, e.moe.output, e.output);
  }
  for (DispatchChunk& chunk : e.plan.in_use()) finish_from_experts(m, chunk);
}

// out (tokens, H) stored as `store` says: the chosen experts' outputs, weighted and added up in the order of k.
void combine(Transformer& m, std::int64_t layer, const Tensor& out, const Tensor& weights, Store store) {
  const Experts e(m, layer);
  for (const DispatchChunk& chunk : e.plan.in_use())
    m.ops->combine_rows(*m.stream, chunk.tokens_of(out), chunk.slots_of(e.moe.output), chunk.tokens_of(e.moe.slot),
                        chunk.tokens_of(weights), store);
}

// dout (tokens, H) -> dweights (tokens, k); the gradients of the experts' outputs start on their way.
void start_backward(Transformer& m, std::int64_t layer, const Tensor& dweights, const Tensor& dout,
                    const Tensor& weights) {
  const Experts e(m, layer);
  const Tensor& dslots = e.travels ? e.c.slots : e.c.expert_rows;
  for (DispatchChunk& chunk : e.plan.in_use()) {
    const Tensor part = chunk.slots_of(dslots);
    if (!e.travels) m.ops->fill(*m.stream, part, 0);  // padding rows must not carry an old buffer's bits into dW
    m.ops->combine_rows_backward(*m.stream, part, chunk.tokens_of(dweights), chunk.tokens_of(dout),
                                 chunk.slots_of(e.moe.output), chunk.tokens_of(e.moe.slot), chunk.tokens_of(weights));
    start_to_experts(m, chunk, dslots);
  }
}

// -> the experts' gradients, and dx (tokens, H) stored as `store` says.
void finish_backward(Transformer& m, std::int64_t layer, const Tensor& dx, Store store) {
  const Experts e(m, layer);
  const LayerWeights& g = m.gradients.layers[static_cast<std::size_t>(layer)];
  for (DispatchChunk& chunk : e.plan.in_use()) {
    const auto rows = [&](const Tensor& t) { return chunk.rows_of(t); };
    const Tensor dact = rows(e.c.expert_dact), dgate_up = rows(e.c.expert_dgate_up);
    const Tensor drows = finish_to_experts(m, layer, chunk, e.c.expert_rows, e.c.expert_rows);
    m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::TN, g.expert_down, drows, rows(e.moe.act),
                          chunk.offsets, Store::Accumulate);
    m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::NN, dact, drows, e.w.expert_down, chunk.offsets);
    m.ops->swiglu_backward(*m.stream, dgate_up, dact, rows(e.moe.gate_up));
    // The output's gradient has served: its rows take the input's, which starts back before the weights' gradient.
    m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::NN, drows, dgate_up, e.w.expert_gate_up, chunk.offsets);
    start_from_experts(m, layer, chunk, e.c.slots, e.c.expert_rows);
    m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::TN, g.expert_gate_up, dgate_up, rows(e.moe.input),
                          chunk.offsets, Store::Accumulate);
  }
  for (DispatchChunk& chunk : e.plan.in_use()) {
    finish_from_experts(m, chunk);
    const Tensor& back = e.travels ? e.c.slots : e.c.expert_rows;
    m.ops->combine_rows(*m.stream, chunk.tokens_of(dx), chunk.slots_of(back), chunk.tokens_of(e.moe.slot), Tensor{},
                        store);
  }
}

}  // namespace

void moe_forward(Transformer& m, std::int64_t layer, double share, bool replay) {
  const Scratch& c = m.activations.scratch;
  DispatchPlan& plan = m.plans[static_cast<std::size_t>(layer)];
  route(m, layer, replay);
  const Routed t = routed_tokens(m, layer);
  const bool cut = cut_over_tp(m), shared = m.config.shared_expert;
  const Tensor out = cut ? c.partial : c.branch;
  const Store store = shared ? Store::Accumulate : Store::Overwrite;
  if (!replay) {  // else the forward's plan and maps still hold
    start_plan(m, layer, t.experts);
    route_losses(m, layer, share);  // while the counts come to the host
    finish_plan(m, layer);
  }
  // Recomputed for a backward that works in rounds, the experts' part is left out: it makes each round's again.
  const bool experts = !replay || plan.rounds == 1;
  for (std::int64_t r = 0; r < plan.rounds; ++r) {
    const TokenRange range = round_of(plan, r, t.x.rows());
    if (experts) {
      if (plan.rounds > 1) plan_round(m, layer, range.of(t.experts));
      start_forward(m, layer, range.of(t.x));
    }
    if (shared && r == 0) {  // while the tokens travel
      if (cut) {
        mlp_partial_forward(m, layer, replay ? Tensor{} : out, t.x);
      } else {
        mlp_forward(m, layer, replay);
      }
    }
    if (experts) finish_forward(m, layer);
    if (!replay) combine(m, layer, range.of(out), range.of(t.weights), store);
  }
  if (cut && !replay) reduce_sequence(m, c.branch);
}

void moe_backward(Transformer& m, std::int64_t layer, double share) {
  const Scratch& c = m.activations.scratch;
  DispatchPlan& plan = m.plans[static_cast<std::size_t>(layer)];
  const bool cut = cut_over_tp(m), shared = m.config.shared_expert;
  const Routed t = routed_tokens(m, layer);
  const Tensor dout = cut ? gather_sequence(m, c.dx, c.dgathered) : c.dx;
  const Tensor dx = cut ? c.partial : c.dnorm, dweights = cut ? c.all_dweights : c.dweights;
  const Store store = shared ? Store::Accumulate : Store::Overwrite;
  for (std::int64_t r = 0; r < plan.rounds; ++r) {
    const TokenRange range = round_of(plan, r, t.x.rows());
    if (plan.rounds > 1) {  // only one round's activations exist at a time: this one's are made again
      plan_round(m, layer, range.of(t.experts));
      start_forward(m, layer, range.of(t.x));
      finish_forward(m, layer);
    }
    start_backward(m, layer, range.of(dweights), range.of(dout), range.of(t.weights));
    if (shared && r == 0) {  // while the gradients travel
      if (cut) {
        mlp_partial_backward(m, layer, dx, dout, t.x);
      } else {
        mlp_backward(m, layer);
      }
    }
    finish_backward(m, layer, range.of(dx), store);
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
