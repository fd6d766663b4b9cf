#include "parallel/model/embedding.h"

#include "kernels/ops.h"

namespace upcycle {

void embedding_forward(const ModelContext& m, const Tensor& out, const Tensor& table, const Tensor& tokens,
                       const SequenceBuffers& buffers) {
  m.ops->embedding_forward(*m.stream, buffers.partial, table, tokens, m.sizes.V_begin);
  reduce_scatter_to_sequence_parallel_region(m, out, buffers.partial);
}

void embedding_backward(const ModelContext& m, const Tensor& dtable, const Tensor& dout, const Tensor& tokens,
                        const SequenceBuffers& buffers) {
  const Tensor all = gather_from_sequence_parallel_region(m, buffers.dgathered, dout);  // (T, H)
  m.ops->embedding_backward(*m.stream, m.workspace, dtable, all, tokens, m.sizes.V_begin);
}

}  // namespace upcycle
