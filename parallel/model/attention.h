#pragma once
#include <span>

#include "parallel/model/batch.h"
#include "parallel/model/sequence_parallel.h"
#include "parallel/model/weights.h"

// Causal grouped-query attention with rotary positions, heads cut over tp: the qkv projection is column-parallel, the
// output projection row-parallel (arXiv 1909.08053).
namespace upcycle {

// What the backward reads of a forward.
struct AttentionState {
  Tensor qkv;    // (T, qkv_local): projected; queries and keys rotated, where they are not in qk
  Tensor heads;  // (T, N_local D): what the heads give, before the output projection
  Tensor lse;    // fp32 (N_local, T)
  // Under qk_norm, else without data:
  Tensor qk;       // (T, (N_local + K_local) D): queries and keys normed and rotated
  Tensor squares;  // fp32 (qk_norm_numbers)
};

struct AttentionScratch {
  Tensor dqkv, dheads;  // as qkv and heads
  Tensor dots;          // as squares
};

// Where the rows of a pass belong to sequences whose earlier keys and values are in a cache (inference).
struct CachedSequences {
  std::span<const PagedCache> layers;  // heads (pages, K_local, P, D), of each layer
  Tensor slots;                        // i32 (T): where this pass's keys and values are to be stored; -1: a padding row
  PagedSequences sequences;
};

// out (T_local, H) = attention of x (T_local, H), the normalised residual, within the batch's sequences.
void attention_forward(const ModelContext& m, std::int64_t layer, const LayerWeights& w, const Tensor& out,
                       const Tensor& x, const AttentionState& saved, const Batch& batch,
                       const SequenceBuffers& buffers);

// The same over cached sequences: the new keys and values join the layer's cache. Of `saved`, lse is not written.
void attention_cached(const ModelContext& m, std::int64_t layer, const LayerWeights& w, const Tensor& out,
                      const Tensor& x, const AttentionState& saved, const Tensor& positions,
                      const CachedSequences& cached, const SequenceBuffers& buffers);

// dx (T_local, H) = the gradient of x, from dout (T_local, H) that of out; weights' gradients are added to g.
void attention_backward(const ModelContext& m, std::int64_t layer, const LayerWeights& w, const LayerWeights& g,
                        const Tensor& dx, const Tensor& dout, const Tensor& x, const AttentionState& saved,
                        const Batch& batch, const AttentionScratch& scratch, const SequenceBuffers& buffers);

}  // namespace upcycle
