#include "parallel/model/experts.h"

#include "kernels/ops.h"

namespace upcycle {

void experts_forward(const ModelContext& m, const LayerWeights& w, Dispatch& d, const ExpertsState& saved,
                     const ExpertsScratch& scratch) {
  const Tensor& output = d.travels ? scratch.rows : saved.output;
  for (DispatchChunk& chunk : d.in_use()) {
    const Tensor input = rows_at_experts(m, d, chunk, saved.input);
    const Tensor gate_up = chunk.rows_of(saved.gate_up), act = chunk.rows_of(saved.act);
    m.ops->grouped_matmul(*m.stream, m.workspace, MatmulKind::NT, gate_up, input, w.expert_gate_up, chunk.offsets);
    m.ops->swiglu_forward(*m.stream, act, gate_up);
    m.ops->grouped_matmul(*m.stream, m.workspace, MatmulKind::NT, chunk.rows_of(output), act, w.expert_down,
                          chunk.offsets);
    from_experts(m, d, chunk, saved.output, output);
  }
}

void experts_backward(const ModelContext& m, const LayerWeights& w, const LayerWeights& g, Dispatch& d,
                      const ExpertsState& saved, const ExpertsScratch& scratch) {
  for (DispatchChunk& chunk : d.in_use()) {
    const auto rows = [&](const Tensor& t) { return chunk.rows_of(t); };
    const Tensor dact = rows(scratch.dact), dgate_up = rows(scratch.dgate_up);
    const Tensor drows = rows_at_experts(m, d, chunk, scratch.rows);
    m.ops->grouped_matmul(*m.stream, m.workspace, MatmulKind::TN, g.expert_down, drows, rows(saved.act), chunk.offsets,
                          Store::Accumulate);
    m.ops->grouped_matmul(*m.stream, m.workspace, MatmulKind::NN, dact, drows, w.expert_down, chunk.offsets);
    m.ops->swiglu_backward(*m.stream, dgate_up, dact, rows(saved.gate_up));
    // The output's gradient has served: its rows take the input's, which starts back before the weights' gradient.
    m.ops->grouped_matmul(*m.stream, m.workspace, MatmulKind::NN, drows, dgate_up, w.expert_gate_up, chunk.offsets);
    from_experts(m, d, chunk, d.slots_beside(scratch.rows), scratch.rows);
    m.ops->grouped_matmul(*m.stream, m.workspace, MatmulKind::TN, g.expert_gate_up, dgate_up, rows(saved.input),
                          chunk.offsets, Store::Accumulate);
  }
}

}  // namespace upcycle
