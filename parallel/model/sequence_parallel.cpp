#include "parallel/model/sequence_parallel.h"

namespace upcycle {

Tensor gather_from_sequence_parallel_region(const ModelContext& m, const Tensor& all, const Tensor& x) {
  if (m.mesh->layout.tp == 1) return x;
  m.stream->wait(m.mesh->tp->all_gather(all, x));
  return all;
}

void reduce_scatter_to_sequence_parallel_region(const ModelContext& m, const Tensor& out, const Tensor& partial) {
  if (m.mesh->layout.tp == 1) return;
  m.stream->wait(m.mesh->tp->reduce_scatter(out, partial));
}

}  // namespace upcycle
