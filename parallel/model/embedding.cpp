#include "parallel/model/transformer.h"

namespace upcycle {

// Vocabulary-parallel: each tp rank looks up the tokens it holds, zeros elsewhere; the sum over tp is the embedding.
void embedding_forward(Transformer& m, const Batch& batch, const Tensor& out) {
  m.ops->embedding_forward(*m.stream, partial_buffer(m, out), m.weights.embedding, batch.tokens, m.sizes.V_begin);
  reduce_sequence(m, out);
}

void embedding_backward(Transformer& m, const Batch& batch, const Tensor& dx) {
  const Tensor dout = gather_sequence(m, dx, m.activations.scratch.dgathered);  // (T, H)
  m.ops->embedding_backward(*m.stream, m.workspace(), m.gradients.embedding, dout, batch.tokens, m.sizes.V_begin);
}

}  // namespace upcycle
