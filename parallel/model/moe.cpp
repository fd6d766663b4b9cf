#include "parallel/model/moe.h"

#include "kernels/ops.h"

namespace upcycle {
namespace {

bool cut_over_tp(const ModelContext& m) { return m.mesh->layout.etp > 1; }

// What this rank sends to the experts: its own T_local tokens with their routing, or all T where experts are cut.
struct Routed {
  Tensor x, experts, weights;  // (tokens, H), i32 (tokens, k), fp32 (tokens, k)
};

Routed routed_tokens(const ModelContext& m, const Tensor& x, const RouterState& router, const MoeScratch& scratch,
                     const SequenceBuffers& buffers) {
  if (!cut_over_tp(m)) return {x, router.experts, router.weights};
  m.stream->wait(m.mesh->tp->all_gather(scratch.all_experts, router.experts));
  m.stream->wait(m.mesh->tp->all_gather(scratch.all_weights, router.weights));
  return {gather_from_sequence_parallel_region(m, buffers.gathered, x), scratch.all_experts, scratch.all_weights};
}

// to = from times the matrix of each row's expert, expert rows of a chunk.
void expert_product(const ModelContext& m, const DispatchChunk& chunk, const Tensor& to, const Tensor& from,
                    const Tensor& weights) {
  m.ops->grouped_matmul(*m.stream, m.workspace, MatmulKind::NT, to, from, weights, chunk.offsets, Store::Overwrite,
                        m.pass.expert_row_align);
}

// saved.output = the experts of the rows that were dispatched: a chunk that has arrived is computed and starts back,
// under the next one's products. A slot is there once its chunk's transfer is reached.
void experts_forward(const ModelContext& m, const LayerWeights& w, Dispatch& d, const ExpertsState& saved,
                     const ExpertsScratch& scratch) {
  const Tensor& output = d.travels ? scratch.rows : saved.output;
  for (DispatchChunk& chunk : d.in_use()) {
    const Tensor input = rows_at_experts(m, d, chunk, saved.input);
    const Tensor gate_up = chunk.rows_of(saved.gate_up), act = chunk.rows_of(saved.act);
    expert_product(m, chunk, gate_up, input, w.expert_gate_up);
    m.ops->swiglu_forward(*m.stream, act, gate_up, gate_activation(m.config));
    expert_product(m, chunk, chunk.rows_of(output), act, w.expert_down);
    from_experts(m, d, chunk, saved.output, output);
  }
}

// The same way back: the outputs' gradients were sent to the experts, the inputs' come to
// d.slots_beside(scratch.rows); weights' gradients are added to g.
void experts_backward(const ModelContext& m, const LayerWeights& w, const LayerWeights& g, Dispatch& d,
                      const ExpertsState& saved, const ExpertsScratch& scratch) {
  for (DispatchChunk& chunk : d.in_use()) {
    const auto rows = [&](const Tensor& t) { return chunk.rows_of(t); };
    const Tensor dact = rows(scratch.dact), dgate_up = rows(scratch.dgate_up);
    if (m.pass.recompute.swiglu && d.rounds == 1) {  // while the gradients travel; a round's are there
      if (m.pass.recompute.mlp) expert_product(m, chunk, rows(saved.gate_up), rows(saved.input), w.expert_gate_up);
      m.ops->swiglu_forward(*m.stream, rows(saved.act), rows(saved.gate_up), gate_activation(m.config));
    }
    const Tensor drows = rows_at_experts(m, d, chunk, scratch.rows);
    m.ops->grouped_matmul(*m.stream, m.workspace, MatmulKind::TN, g.expert_down, drows, rows(saved.act), chunk.offsets,
                          Store::Accumulate);
    m.ops->grouped_matmul(*m.stream, m.workspace, MatmulKind::NN, dact, drows, w.expert_down, chunk.offsets);
    m.ops->swiglu_backward(*m.stream, dgate_up, dact, rows(saved.gate_up), gate_activation(m.config));
    // The output's gradient has served: its rows take the input's, which starts back before the weights' gradient.
    m.ops->grouped_matmul(*m.stream, m.workspace, MatmulKind::NN, drows, dgate_up, w.expert_gate_up, chunk.offsets);
    from_experts(m, d, chunk, d.slots_beside(scratch.rows), scratch.rows);
    m.ops->grouped_matmul(*m.stream, m.workspace, MatmulKind::TN, g.expert_gate_up, dgate_up, rows(saved.input),
                          chunk.offsets, Store::Accumulate);
  }
}

// sum (tokens, H) = or += the tokens' slots in the order of k, weighted (tokens, k) or, without weights, as they are.
void combine(const ModelContext& m, Dispatch& d, const Tensor& sum, const Tensor& slots, const Tensor& weights,
             Store store) {
  for (const DispatchChunk& chunk : d.in_use()) {
    m.stream->wait(chunk.transfer);
    m.ops->combine_rows(*m.stream, chunk.tokens_of(sum), chunk.slots_of(slots), chunk.tokens_of(d.maps.slot),
                        weights ? chunk.tokens_of(weights) : Tensor{}, store);
  }
}

// dsum (tokens, H) -> dweights (tokens, k); the gradients of the experts' outputs start on their way, to become the
// expert rows `drows`.
void combine_backward(const ModelContext& m, Dispatch& d, const Tensor& dweights, const Tensor& drows,
                      const Tensor& dsum, const Tensor& output, const Tensor& weights) {
  const Tensor& dslots = d.slots_beside(drows);
  for (DispatchChunk& chunk : d.in_use()) {
    const Tensor part = chunk.slots_of(dslots);
    if (!d.travels) m.ops->fill(*m.stream, part, 0);  // padding rows must not carry an old buffer's bits into dW
    m.ops->combine_rows_backward(*m.stream, part, chunk.tokens_of(dweights), chunk.tokens_of(dsum),
                                 chunk.slots_of(output), chunk.tokens_of(d.maps.slot), chunk.tokens_of(weights));
    to_experts(m, d, chunk, dslots);
  }
}

}  // namespace

void moe_forward(const ModelContext& m, const LayerWeights& w, const Tensor& out, const Tensor& x,
                 const Tensor& metrics, double share, MoeState& saved, const MoeScratch& scratch,
                 const SequenceBuffers& buffers) {
  Dispatch& d = saved.dispatch;
  const bool cut = cut_over_tp(m), shared = m.config.shared_expert;
  const Tensor sum = cut ? buffers.partial : out;
  route(m, w.router, w.router_bias, x, saved.router, scratch.router);
  const Routed tokens = routed_tokens(m, x, saved.router, scratch, buffers);
  dispatch(m, d, tokens.x, tokens.experts, saved.experts.input);
  if (m.pass.training) router_losses(m, metrics, share, saved.router, scratch.router);  // while the tokens travel
  for (std::int64_t r = 0; r < d.rounds; ++r) {
    const TokenRange round = d.round(r, tokens.x.rows());
    if (d.rounds > 1) dispatch_round(m, d, round.of(tokens.x), round.of(tokens.experts), saved.experts.input);
    if (shared && r == 0) {  // while the tokens travel
      if (cut)
        mlp_partial_forward(m, w, sum, tokens.x, saved.shared);
      else
        mlp_forward(m, w, out, x, saved.shared, buffers);
    }
    experts_forward(m, w, d, saved.experts, scratch.experts);
    combine(m, d, round.of(sum), saved.experts.output, round.of(tokens.weights),
            shared ? Store::Accumulate : Store::Overwrite);
  }
  if (cut) reduce_scatter_to_sequence_parallel_region(m, out, sum);
}

void moe_recompute(const ModelContext& m, const LayerWeights& w, const Tensor& x, MoeState& saved,
                   const MoeScratch& scratch, const SequenceBuffers& buffers) {
  Dispatch& d = saved.dispatch;
  route_again(m, w.router, x, saved.router, scratch.router);
  const Routed tokens = routed_tokens(m, x, saved.router, scratch, buffers);
  const bool experts = d.rounds == 1;  // a backward that works in rounds makes each round's again
  if (experts) dispatch_again(m, d, tokens.x, saved.experts.input);
  if (m.config.shared_expert) {
    if (cut_over_tp(m))
      mlp_partial_forward(m, w, Tensor{}, tokens.x, saved.shared);
    else
      mlp_forward(m, w, Tensor{}, x, saved.shared, buffers);
  }
  if (!experts) return;
  experts_forward(m, w, d, saved.experts, scratch.experts);
  for (const DispatchChunk& chunk : d.in_use()) m.stream->wait(chunk.transfer);
}

void moe_backward(const ModelContext& m, const LayerWeights& w, const LayerWeights& g, const Tensor& dx,
                  const Tensor& dout, const Tensor& x, double share, MoeState& saved, const MoeScratch& scratch,
                  const SequenceBuffers& buffers) {
  Dispatch& d = saved.dispatch;
  const bool cut = cut_over_tp(m), shared = m.config.shared_expert;
  const Routed tokens = routed_tokens(m, x, saved.router, scratch, buffers);
  const Tensor dsum = cut ? gather_from_sequence_parallel_region(m, buffers.dgathered, dout) : dout;
  const Tensor dtokens = cut ? buffers.partial : dx, dweights = cut ? scratch.all_dweights : scratch.dweights;
  for (std::int64_t r = 0; r < d.rounds; ++r) {
    const TokenRange round = d.round(r, tokens.x.rows());
    if (d.rounds > 1) {  // only one round's activations exist at a time: this one's are made again
      dispatch_round(m, d, round.of(tokens.x), round.of(tokens.experts), saved.experts.input);
      experts_forward(m, w, d, saved.experts, scratch.experts);
      for (const DispatchChunk& chunk : d.in_use()) m.stream->wait(chunk.transfer);
    }
    combine_backward(m, d, round.of(dweights), scratch.experts.rows, round.of(dsum), saved.experts.output,
                     round.of(tokens.weights));
    if (shared && r == 0) {  // while the gradients travel
      if (cut)
        mlp_partial_backward(m, w, g, dtokens, dsum, tokens.x, saved.shared, scratch.shared);
      else
        mlp_backward(m, w, g, dx, dout, x, saved.shared, scratch.shared, buffers);
    }
    experts_backward(m, w, g, d, saved.experts, scratch.experts);
    combine(m, d, round.of(dtokens), d.slots_beside(scratch.experts.rows), Tensor{},
            shared ? Store::Accumulate : Store::Overwrite);
  }
  if (cut) {
    m.stream->wait(m.mesh->tp->all_reduce(scratch.all_dweights));
    const std::int64_t first = m.T_local() * m.mesh->at.tp;
    m.ops->convert(*m.stream, scratch.dweights, scratch.all_dweights.slice_rows(first, first + m.T_local()));
    reduce_scatter_to_sequence_parallel_region(m, dx, dtokens);
  }
  route_backward(m, w.router, g.router, dx, scratch.dweights, x, share, saved.router, scratch.router);
}

}  // namespace upcycle
