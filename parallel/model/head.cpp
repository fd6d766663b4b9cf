#include "parallel/model/head.h"

#include "kernels/ops.h"

namespace upcycle {

void head_forward(const ModelContext& m, const Tensor& weight, const Tensor& loss_sum, const Tensor& x,
                  const Tensor& targets, const HeadState& saved, const SequenceBuffers& buffers) {
  const Tensor all = gather_from_sequence_parallel_region(m, buffers.gathered, x);  // (T, H)
  const std::int64_t rank = m.mesh->tp->rank();
  const Tensor mine = saved.stats.slice_rows(rank, rank + 1).reshaped({m.T(), 3});
  m.ops->linear_xent_stats(*m.stream, m.workspace, mine, all, weight, targets, m.sizes.V_begin, m.sizes.V_valid);
  m.stream->wait(m.mesh->tp->all_gather(saved.stats, mine));
  m.ops->xent_combine(*m.stream, saved.nll, saved.lse, loss_sum, saved.stats, targets);
}

void head_backward(const ModelContext& m, const Tensor& weight, const Tensor& dweight, const Tensor& dx,
                   const Tensor& x, const Tensor& targets, float scale, const HeadState& saved,
                   const SequenceBuffers& buffers) {
  const Tensor all = gather_from_sequence_parallel_region(m, buffers.gathered, x);
  m.ops->linear_xent_backward(*m.stream, m.workspace, buffers.partial, dweight, all, weight, targets, saved.lse,
                              m.sizes.V_begin, m.sizes.V_valid, scale);
  reduce_scatter_to_sequence_parallel_region(m, dx, buffers.partial);
}

void head_logits(const ModelContext& m, const Tensor& weight, const Tensor& out, const Tensor& x, std::int64_t row,
                 std::int64_t rows, const SequenceBuffers& buffers) {
  const Tensor all = gather_from_sequence_parallel_region(m, buffers.gathered, x);
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::NT, out, all.slice_rows(row, row + rows), weight);
}

void head_logits_of(const ModelContext& m, const Tensor& weight, const Tensor& out, const Tensor& hidden,
                    const Tensor& x, const Tensor& rows, const SequenceBuffers& buffers) {
  const Tensor all = gather_from_sequence_parallel_region(m, buffers.gathered, x);
  m.ops->gather_rows(*m.stream, hidden, all, rows);
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::NT, out, hidden, weight);
}

}  // namespace upcycle
