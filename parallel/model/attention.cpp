#include "parallel/model/transformer.h"

// Causal grouped-query attention, heads cut over tp: qkv and output projections are column- and row-parallel
// (arXiv 1909.08053). Reads the layer's attention_norm (T_local, H).
namespace upcycle {
namespace {

struct Heads {
  Tensor q, k, v;  // (T, N_local D), (T, K_local D), (T, K_local D): columns of the packed qkv
};

Heads heads_of(const Tensor& qkv, const Sizes& s) {
  const std::int64_t q = s.N_local * s.D, kv = s.K_local * s.D;
  return {qkv.slice_columns(0, q), qkv.slice_columns(q, q + kv), qkv.slice_columns(q + kv, q + 2 * kv)};
}

// Appends this pass's keys and values; returns the sequence they now make.
PackedSequences append(Transformer& m, std::int64_t layer, KvCache& cache, const Heads& h) {
  const std::int64_t end = cache.length + m.T();
  UPCYCLE_CHECK(m.pass.B == 1 && end <= cache.capacity, "key/value cache of {} rows, {} needed", cache.capacity, end);
  const auto l = static_cast<std::size_t>(layer);
  m.ops->convert(*m.stream, cache.k[l].slice_rows(cache.length, end), h.k);
  m.ops->convert(*m.stream, cache.v[l].slice_rows(cache.length, end), h.v);
  return {cache.offsets, 1, end};
}

}  // namespace

void attention_forward(Transformer& m, std::int64_t layer, const Batch& batch, KvCache* cache) {
  const LayerWeights& w = m.weights.layers[static_cast<std::size_t>(layer)];
  const LayerState& a = m.activations.layers[static_cast<std::size_t>(layer)];
  const Sizes& s = m.sizes;
  const Tensor x = gather_sequence(m, a.attention_norm, m.activations.scratch.gathered);  // (T, H)
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::NT, a.qkv, x, w.qkv);
  const Heads h = heads_of(a.qkv, s);
  // q and k are neighbours: one rotation turns both.
  m.ops->rope(*m.stream, a.qkv.slice_columns(0, (s.N_local + s.K_local) * s.D), s.D, m.rope_table, batch.positions,
              false);
  if (cache != nullptr) {
    const PackedSequences all = append(m, layer, *cache, h);
    const auto l = static_cast<std::size_t>(layer);
    m.ops->attention_forward(*m.stream, m.workspace(), a.attention, a.lse, h.q, cache->k[l].slice_rows(0, all.longest),
                             cache->v[l].slice_rows(0, all.longest), s.D, batch.sequences, all);
  } else {
    m.ops->attention_forward(*m.stream, m.workspace(), a.attention, a.lse, h.q, h.k, h.v, s.D, batch.sequences,
                             batch.sequences);
  }
  const Tensor out = m.activations.scratch.branch;
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::NT, partial_buffer(m, out), a.attention, w.attention_out);
  reduce_sequence(m, out);
}

void attention_backward(Transformer& m, std::int64_t layer, const Batch& batch) {
  const LayerWeights& w = m.weights.layers[static_cast<std::size_t>(layer)];
  const LayerWeights& g = m.gradients.layers[static_cast<std::size_t>(layer)];
  const LayerState& a = m.activations.layers[static_cast<std::size_t>(layer)];
  const Scratch& c = m.activations.scratch;
  const Sizes& s = m.sizes;
  const Tensor dout = gather_sequence(m, c.dx, c.dgathered);  // (T, H)
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::NN, c.dattention, dout, w.attention_out);
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::TN, g.attention_out, dout, a.attention, Store::Accumulate);
  const Heads h = heads_of(a.qkv, s), d = heads_of(c.dqkv, s);
  m.ops->attention_backward(*m.stream, m.workspace(), d.q, d.k, d.v, c.dattention, h.q, h.k, h.v, a.attention, a.lse,
                            s.D, batch.sequences, batch.sequences);
  m.ops->rope(*m.stream, c.dqkv.slice_columns(0, (s.N_local + s.K_local) * s.D), s.D, m.rope_table, batch.positions,
              true);
  const Tensor x = gather_sequence(m, a.attention_norm, c.gathered);
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::TN, g.qkv, c.dqkv, x, Store::Accumulate);
  m.ops->matmul(*m.stream, m.workspace(), MatmulKind::NN, partial_buffer(m, c.dnorm), c.dqkv, w.qkv);
  reduce_sequence(m, c.dnorm);
}

}  // namespace upcycle
