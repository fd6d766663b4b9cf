#include "parallel/model/transformer.h"

// SwiGLU MLP, F cut over tp (column-parallel gate and up, row-parallel down).
namespace upcycle {

void mlp_partial_forward(Transformer& m, std::int64_t layer, const Tensor& out, const Tensor& input) {
  const LayerWeights& w = m.weights.layers[static_cast<std::size_t>(layer)];
  const LayerState& a = m.activations.layers[static_cast<std::size_t>(layer)];
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::NT, a.gate_up, input, w.gate_up);  // (T, H) -> (T, 2 F_local)
  m.ops->swiglu_forward(*m.stream, a.act, a.gate_up);
  if (out) m.ops->matmul(*m.stream, m.workspace(), MatmulKind::NT, out, a.act, w.down);
}

void mlp_partial_backward(Transformer& m, std::int64_t layer, const Tensor& dinput, const Tensor& dout,
                          const Tensor& input) {
  const LayerWeights& w = m.weights.layers[static_cast<std::size_t>(layer)];
  const LayerWeights& g = m.gradients.layers[static_cast<std::size_t>(layer)];
  const LayerState& a = m.activations.layers[static_cast<std::size_t>(layer)];
  const Scratch& c = m.activations.scratch;
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::TN, g.down, dout, a.act, Store::Accumulate);
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::NN, c.dact, dout, w.down);
  m.ops->swiglu_backward(*m.stream, c.dgate_up, c.dact, a.gate_up);
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::TN, g.gate_up, c.dgate_up, input, Store::Accumulate);
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::NN, dinput, c.dgate_up, w.gate_up);
}

void mlp_forward(Transformer& m, std::int64_t layer, bool replay) {
  const Scratch& c = m.activations.scratch;
  const Tensor x = gather_sequence(m, m.activations.layers[static_cast<std::size_t>(layer)].mlp_norm, c.gathered);
  mlp_partial_forward(m, layer, replay ? Tensor{} : partial_buffer(m, c.branch), x);
  if (!replay) reduce_sequence(m, c.branch);
}

void mlp_backward(Transformer& m, std::int64_t layer) {
  const Scratch& c = m.activations.scratch;
  const Tensor dout = gather_sequence(m, c.dx, c.dgathered);
  const Tensor x = gather_sequence(m, m.activations.layers[static_cast<std::size_t>(layer)].mlp_norm, c.gathered);
  mlp_partial_backward(m, layer, partial_buffer(m, c.dnorm), dout, x);
  reduce_sequence(m, c.dnorm);
}

}  // namespace upcycle
