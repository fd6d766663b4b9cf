#include "parallel/model/transformer.h"

// Output projection and cross-entropy, vocabulary-parallel: the logits of a whole vocabulary never sit on one rank.
namespace upcycle {

void head_forward(Transformer& m, const Batch& batch) {
  const Activations& a = m.activations;
  const Sizes& s = m.sizes;
  const Tensor x = gather_sequence(m, a.final_norm, a.scratch.gathered);  // (T, H)
  const std::int64_t rank = m.mesh->tp->rank();
  const Tensor mine = a.xent_stats.slice_rows(rank, rank + 1).reshaped({m.T(), 3});
  m.ops->linear_xent_stats(*m.stream, m.workspace(), mine, x, m.weights.head, batch.targets, s.V_begin, s.V_valid);
  m.stream->wait(m.mesh->tp->all_gather(a.xent_stats, mine));
  m.ops->xent_combine(*m.stream, a.nll, a.lse, a.loss_sum, a.xent_stats, batch.targets);
}

void head_backward(Transformer& m, const Batch& batch, float scale) {
  const Activations& a = m.activations;
  const Sizes& s = m.sizes;
  const Tensor x = gather_sequence(m, a.final_norm, a.scratch.gathered);
  m.ops->linear_xent_backward(*m.stream, m.workspace(), partial_buffer(m, a.scratch.dnorm), m.gradients.head, x,
                              m.weights.head, batch.targets, a.lse, s.V_begin, s.V_valid, scale);
  reduce_sequence(m, a.scratch.dnorm);
}

void logits(Transformer& m, const Tensor& out, std::int64_t row, std::int64_t rows) {
  const Tensor x = gather_sequence(m, m.activations.final_norm, m.activations.scratch.gathered);
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::NT, out, x.slice_rows(row, row + rows), m.weights.head);
}

}  // namespace upcycle
