#include "parallel/model/mlp.h"

#include "kernels/ops.h"

namespace upcycle {

namespace {

// saved.act of saved.gate_up; of a shared expert with a gate, rows times the sigmoid. So the gate needs no buffer and
// no collective of its own: its gradient is linear in what each rank of tp has of act.
void activate(const ModelContext& m, const LayerWeights& w, const Tensor& x, const MlpState& saved) {
  m.ops->swiglu_forward(*m.stream, saved.act, saved.gate_up, gate_activation(m.config));
  if (w.shared_expert_gate) m.ops->gate_rows_forward(*m.stream, saved.act, x, w.shared_expert_gate);
}

}  // namespace

GateActivation gate_activation(const ModelConfig& model) {
  return model.hidden_act == "silu" ? GateActivation::Silu : GateActivation::GeluTanh;
}

void mlp_forward(const ModelContext& m, const LayerWeights& w, const Tensor& out, const Tensor& x,
                 const MlpState& saved, const SequenceBuffers& buffers) {
  const Tensor all = gather_from_sequence_parallel_region(m, buffers.gathered, x);  // (T, H)
  mlp_partial_forward(m, w, out ? buffers.partial : Tensor{}, all, saved);
  if (!out) return;
  reduce_scatter_to_sequence_parallel_region(m, out, buffers.partial);
  if (w.down_bias) m.ops->add_bias(*m.stream, out, w.down_bias);  // once, to the sum
}

void mlp_backward(const ModelContext& m, const LayerWeights& w, const LayerWeights& g, const Tensor& dx,
                  const Tensor& dout, const Tensor& x, const MlpState& saved, const MlpScratch& scratch,
                  const SequenceBuffers& buffers) {
  const Tensor dall = gather_from_sequence_parallel_region(m, buffers.dgathered, dout);
  const Tensor all = gather_from_sequence_parallel_region(m, buffers.gathered, x);
  if (w.down_bias) m.ops->bias_backward(*m.stream, m.workspace, g.down_bias, dout);
  mlp_partial_backward(m, w, g, buffers.partial, dall, all, saved, scratch);
  reduce_scatter_to_sequence_parallel_region(m, dx, buffers.partial);
}

void mlp_partial_forward(const ModelContext& m, const LayerWeights& w, const Tensor& out, const Tensor& x,
                         const MlpState& saved) {
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::NT, saved.gate_up, x, w.gate_up);  // (T, H) -> (T, 2 F_local)
  if (w.gate_up_bias) m.ops->add_bias(*m.stream, saved.gate_up, w.gate_up_bias);
  activate(m, w, x, saved);
  if (out) m.ops->matmul(*m.stream, m.workspace, MatmulKind::NT, out, saved.act, w.down);
}

void mlp_partial_backward(const ModelContext& m, const LayerWeights& w, const LayerWeights& g, const Tensor& dx,
                          const Tensor& dout, const Tensor& x, const MlpState& saved, const MlpScratch& scratch) {
  if (m.pass.recompute.mlp)
    mlp_partial_forward(m, w, Tensor{}, x, saved);
  else if (m.pass.recompute.swiglu)
    activate(m, w, x, saved);
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::TN, g.down, dout, saved.act, Store::Accumulate);
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::NN, scratch.dact, dout, w.down);
  if (w.shared_expert_gate)
    m.ops->gate_rows_backward(*m.stream, scratch.dact, scratch.dlogits, saved.act, x, w.shared_expert_gate);
  m.ops->swiglu_backward(*m.stream, scratch.dgate_up, scratch.dact, saved.gate_up, gate_activation(m.config));
  if (w.gate_up_bias) m.ops->bias_backward(*m.stream, m.workspace, g.gate_up_bias, scratch.dgate_up);
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::TN, g.gate_up, scratch.dgate_up, x, Store::Accumulate);
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::NN, dx, scratch.dgate_up, w.gate_up);
  if (w.shared_expert_gate)
    m.ops->gate_logits_backward(*m.stream, m.workspace, dx, g.shared_expert_gate, scratch.dlogits, x,
                                w.shared_expert_gate);
}

}  // namespace upcycle
