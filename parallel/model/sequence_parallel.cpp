#include "parallel/model/transformer.h"

namespace upcycle {

Tensor gather_sequence(Transformer& m, const Tensor& x, const Tensor& into) {
  if (m.mesh->layout.tp == 1) return x;
  m.stream->wait(m.mesh->tp->all_gather(into, x));
  return into;
}

Tensor partial_buffer(Transformer& m, const Tensor& out) {
  return m.mesh->layout.tp == 1 ? out : m.activations.scratch.partial;
}

void reduce_sequence(Transformer& m, const Tensor& out) {
  if (m.mesh->layout.tp == 1) return;
  m.stream->wait(m.mesh->tp->reduce_scatter(out, m.activations.scratch.partial));
}

}  // namespace upcycle
