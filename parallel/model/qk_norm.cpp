#include "parallel/model/qk_norm.h"

#include "kernels/ops.h"

namespace upcycle {
namespace {

bool over_whole_width(const ModelConfig& model) { return model.qk_norm == "full"; }

// Queries or keys, their norm's weight, and where numbers of (T, norms of a row) lie.
struct Part {
  Tensor numbers;           // of `all`, (T, heads) or (T, 1)
  std::int64_t begin, end;  // columns of the packed queries and keys
  std::int64_t width;       // elements that are normed together, on all tp ranks
  Tensor LayerWeights::*weight;
};

struct Parts {
  Part q, k;
  Tensor all;  // fp32, the numbers of both in one piece
};

Parts parts_of(const ModelContext& m, const Tensor& memory, std::int64_t T) {
  const Sizes& s = m.sizes;
  const bool whole = over_whole_width(m.config);
  const std::int64_t q = s.N_local * s.D, kv = s.K_local * s.D;
  const std::int64_t q_norms = whole ? 1 : s.N_local, k_norms = whole ? 1 : s.K_local;
  const Tensor all = memory.slice_rows(0, T * (q_norms + k_norms));
  return {{all.slice_rows(0, T * q_norms).reshaped({T, q_norms}), 0, q, whole ? s.N * s.D : s.D, &LayerWeights::q_norm},
          {all.slice_rows(T * q_norms, all.size()).reshaped({T, k_norms}), q, q + kv, whole ? s.K * s.D : s.D,
           &LayerWeights::k_norm},
          all};
}

// With norms of the whole width a rank's numbers are its part of sums over tp.
void add_up_over_tp(const ModelContext& m, const Tensor& numbers) {
  if (over_whole_width(m.config) && m.mesh->layout.tp > 1) m.stream->wait(m.mesh->tp->all_reduce(numbers));
}

}  // namespace

std::int64_t qk_norm_numbers(const ModelConfig& model, const Sizes& s, std::int64_t T) {
  return T * (over_whole_width(model) ? 2 : s.N_local + s.K_local);
}

void qk_norm_forward(const ModelContext& m, const LayerWeights& w, const AttentionState& saved) {
  const Parts parts = parts_of(m, saved.squares, saved.qkv.rows());
  for (const Part& p : {parts.q, parts.k}) {
    const Tensor x = saved.qkv.slice_columns(p.begin, p.end);
    m.ops->head_dots(*m.stream, p.numbers, x, x, Tensor{});
  }
  add_up_over_tp(m, parts.all);
  for (const Part& p : {parts.q, parts.k})
    m.ops->head_norm_forward(*m.stream, saved.qk.slice_columns(p.begin, p.end), saved.qkv.slice_columns(p.begin, p.end),
                             w.*p.weight, p.numbers, p.width, static_cast<float>(m.config.rms_norm_eps));
}

void qk_norm_backward(const ModelContext& m, const LayerWeights& w, const LayerWeights& g, const Tensor& dqk,
                      const AttentionState& saved, const AttentionScratch& scratch) {
  const std::int64_t T = saved.qkv.rows();
  const Parts squares = parts_of(m, saved.squares, T), dots = parts_of(m, scratch.dots, T);
  for (const Part& p : {dots.q, dots.k})
    m.ops->head_dots(*m.stream, p.numbers, dqk.slice_columns(p.begin, p.end), saved.qkv.slice_columns(p.begin, p.end),
                     w.*p.weight);
  add_up_over_tp(m, dots.all);
  for (const auto& [p, squares_of] : {std::pair{dots.q, squares.q.numbers}, std::pair{dots.k, squares.k.numbers}}) {
    const Tensor d = dqk.slice_columns(p.begin, p.end);
    m.ops->head_norm_backward(*m.stream, m.workspace, d, g.*p.weight, d, saved.qkv.slice_columns(p.begin, p.end),
                              w.*p.weight, squares_of, p.numbers, p.width, static_cast<float>(m.config.rms_norm_eps));
  }
}

}  // namespace upcycle
