#include "parallel/model/transformer.h"

// Mixture of experts, dropless (arXiv 2211.15841): route, sort the tokens by expert, one grouped SwiGLU over the
// experts, and the weighted sum back in token order. Experts are whole on a rank (etp = 1) and every rank holds all of
// them (ep = 1), so tokens stay where they are.
namespace upcycle {
namespace {

// Where each expert's segment begins: the one thing the host must know of the routing, for GEMM row counts.
std::int64_t place_segments(Transformer& m, std::size_t layer) {
  const MoeState& moe = m.activations.layers[layer].moe;
  m.device->copy_to_host(*m.stream, m.host_counts.data(), moe.counts.data, moe.counts.bytes());
  std::vector<std::int64_t>& offsets = m.expert_offsets[layer];
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) {
    const std::int64_t rows = (m.host_counts[e] + kExpertRowAlign - 1) / kExpertRowAlign * kExpertRowAlign;
    offsets[e + 1] = offsets[e] + rows;
  }
  return offsets.back();
}

}  // namespace

void moe_forward(Transformer& m, std::int64_t layer, double share, bool replay) {
  const auto l = static_cast<std::size_t>(layer);
  const LayerWeights& w = m.weights.layers[l];
  const LayerState& a = m.activations.layers[l];
  const MoeState& moe = a.moe;
  route(m, layer, share, replay);
  m.ops->sort_by_expert(*m.stream, m.workspace(), moe.counts, moe.source, moe.slot, moe.experts, kExpertRowAlign);
  const std::int64_t R = place_segments(m, l);  // rows in use
  const auto rows = [R](const Tensor& t) { return t.slice_rows(0, R); };
  m.ops->gather_rows(*m.stream, rows(moe.input), a.mlp_norm, rows(moe.source));
  m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::NT, rows(moe.gate_up), rows(moe.input), w.expert_gate_up,
                        m.expert_offsets[l]);
  m.ops->swiglu_forward(*m.stream, rows(moe.act), rows(moe.gate_up));
  m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::NT, rows(moe.output), rows(moe.act), w.expert_down,
                        m.expert_offsets[l]);
  if (m.config.shared_expert) mlp_forward(m, layer);  // leaves its sum in branch
  m.ops->combine_rows(*m.stream, m.activations.scratch.branch, rows(moe.output), moe.slot, moe.weights,
                      m.config.shared_expert ? Store::Accumulate : Store::Overwrite);
}

void moe_backward(Transformer& m, std::int64_t layer, double share) {
  const auto l = static_cast<std::size_t>(layer);
  const LayerWeights& w = m.weights.layers[l];
  const LayerWeights& g = m.gradients.layers[l];
  const MoeState& moe = m.activations.layers[l].moe;
  const Scratch& c = m.activations.scratch;
  const std::vector<std::int64_t>& offsets = m.expert_offsets[l];
  const auto rows = [R = offsets.back()](const Tensor& t) { return t.slice_rows(0, R); };
  const Tensor drows = rows(c.drows), dact = rows(c.expert_dact), dgate_up = rows(c.expert_dgate_up);

  if (m.config.shared_expert) mlp_backward(m, layer);  // leaves its part in dnorm
  m.ops->fill(*m.stream, drows, 0);                    // padding rows must not carry an old buffer's bits into dW
  m.ops->combine_rows_backward(*m.stream, drows, c.dweights, c.dx, rows(moe.output), moe.slot, moe.weights);
  m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::TN, g.expert_down, drows, rows(moe.act), offsets,
                        Store::Accumulate);
  m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::NN, dact, drows, w.expert_down, offsets);
  m.ops->swiglu_backward(*m.stream, dgate_up, dact, rows(moe.gate_up));
  m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::TN, g.expert_gate_up, dgate_up, rows(moe.input), offsets,
                        Store::Accumulate);
  // drows has served: it takes the gradient of the experts' input.
  m.ops->grouped_matmul(*m.stream, m.workspace(), MatmulKind::NN, drows, dgate_up, w.expert_gate_up, offsets);
  m.ops->combine_rows(*m.stream, c.dnorm, drows, moe.slot, Tensor{},
                      m.config.shared_expert ? Store::Accumulate : Store::Overwrite);
  route_backward(m, layer, share);
}

}  // namespace upcycle
