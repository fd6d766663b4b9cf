#include "parallel/model/attention.h"

#include "kernels/ops.h"
#include "parallel/model/qk_norm.h"

namespace upcycle {
namespace {

struct Heads {
  Tensor q, k, v;  // (T, N_local D), (T, K_local D), (T, K_local D): columns of the packed qkv
  Tensor qk;       // q and k are neighbours: one rotation turns both
};

float score_scale(const ModelContext& m) { return static_cast<float>(m.config.attention_multiplier); }

// `normed`: queries and keys in memory of their own, if they are.
Heads heads_of(const Tensor& qkv, const Tensor& normed, const Sizes& s) {
  const std::int64_t q = s.N_local * s.D, kv = s.K_local * s.D;
  const Tensor qk = normed ? normed : qkv.slice_columns(0, q + kv);
  return {qk.slice_columns(0, q), qk.slice_columns(q, q + kv), qkv.slice_columns(q + kv, q + 2 * kv), qk};
}

// saved.qkv = the projection of all (T, H); its queries and keys, normed under qk_norm, are rotated to their positions
// where the layer has RoPE.
Heads project(const ModelContext& m, std::int64_t layer, const LayerWeights& w, const Tensor& all,
              const AttentionState& saved, const Tensor& positions) {
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::NT, saved.qkv, all, w.qkv);
  if (w.qkv_bias) m.ops->add_bias(*m.stream, saved.qkv, w.qkv_bias);
  if (w.q_norm) qk_norm_forward(m, w, saved);
  const Heads h = heads_of(saved.qkv, saved.qk, m.sizes);
  if (m.config.has_rope(layer)) m.ops->rope(*m.stream, h.qk, m.sizes.D, m.rope_table, positions, false);
  return h;
}

void attend(const ModelContext& m, std::int64_t layer, const LayerWeights& w, const Tensor& all,
            const AttentionState& saved, const Batch& batch) {
  const Heads h = project(m, layer, w, all, saved, batch.positions);
  m.ops->attention_forward(*m.stream, m.workspace, saved.heads, saved.lse, h.q, h.k, h.v, m.sizes.D, batch.sequences,
                           batch.sequences, score_scale(m));
}

// out (T_local, H) = the output projection of saved.heads.
void project_out(const ModelContext& m, const LayerWeights& w, const Tensor& out, const AttentionState& saved,
                 const SequenceBuffers& buffers) {
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::NT, buffers.partial, saved.heads, w.attention_out);
  reduce_scatter_to_sequence_parallel_region(m, out, buffers.partial);
  if (w.attention_out_bias) m.ops->add_bias(*m.stream, out, w.attention_out_bias);  // once, to the sum
}

}  // namespace

void attention_forward(const ModelContext& m, std::int64_t layer, const LayerWeights& w, const Tensor& out,
                       const Tensor& x, const AttentionState& saved, const Batch& batch,
                       const SequenceBuffers& buffers) {
  attend(m, layer, w, gather_from_sequence_parallel_region(m, buffers.gathered, x), saved, batch);
  project_out(m, w, out, saved, buffers);
}

void attention_cached(const ModelContext& m, std::int64_t layer, const LayerWeights& w, const Tensor& out,
                      const Tensor& x, const AttentionState& saved, const Tensor& positions,
                      const CachedSequences& cached, const SequenceBuffers& buffers) {
  const Tensor all = gather_from_sequence_parallel_region(m, buffers.gathered, x);  // (T, H)
  const Heads h = project(m, layer, w, all, saved, positions);
  const PagedCache& cache = cached.layers[static_cast<std::size_t>(layer)];
  m.ops->store_in_pages(*m.stream, cache, h.k, h.v, cached.slots);
  m.ops->paged_attention(*m.stream, m.workspace, saved.heads, h.q, cache, cached.sequences, score_scale(m));
  project_out(m, w, out, saved, buffers);
}

void attention_backward(const ModelContext& m, std::int64_t layer, const LayerWeights& w, const LayerWeights& g,
                        const Tensor& dx, const Tensor& dout, const Tensor& x, const AttentionState& saved,
                        const Batch& batch, const AttentionScratch& scratch, const SequenceBuffers& buffers) {
  const Tensor all = gather_from_sequence_parallel_region(m, buffers.gathered, x);       // (T, H)
  const Tensor dall = gather_from_sequence_parallel_region(m, buffers.dgathered, dout);  // (T, H)
  if (m.pass.recompute.attention) attend(m, layer, w, all, saved, batch);
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::NN, scratch.dheads, dall, w.attention_out);
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::TN, g.attention_out, dall, saved.heads, Store::Accumulate);
  if (w.attention_out_bias) m.ops->bias_backward(*m.stream, m.workspace, g.attention_out_bias, dout);
  const Heads h = heads_of(saved.qkv, saved.qk, m.sizes), d = heads_of(scratch.dqkv, Tensor{}, m.sizes);
  m.ops->attention_backward(*m.stream, m.workspace, d.q, d.k, d.v, scratch.dheads, h.q, h.k, h.v, saved.heads,
                            saved.lse, m.sizes.D, batch.sequences, batch.sequences, score_scale(m));
  if (m.config.has_rope(layer)) m.ops->rope(*m.stream, d.qk, m.sizes.D, m.rope_table, batch.positions, true);
  if (w.q_norm) qk_norm_backward(m, w, g, d.qk, saved, scratch);
  if (w.qkv_bias) m.ops->bias_backward(*m.stream, m.workspace, g.qkv_bias, scratch.dqkv);
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::TN, g.qkv, scratch.dqkv, all, Store::Accumulate);
  m.ops->matmul(*m.stream, m.workspace, MatmulKind::NN, buffers.partial, scratch.dqkv, w.qkv);
  reduce_scatter_to_sequence_parallel_region(m, dx, buffers.partial);
}

}  // namespace upcycle
