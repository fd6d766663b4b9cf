#pragma once
#include "parallel/model/batch.h"
#include "parallel/model/sequence_parallel.h"
#include "parallel/model/weights.h"

// Causal grouped-query attention with rotary positions, heads cut over tp: the qkv projection is column-parallel, the
// output projection row-parallel (arXiv 1909.08053).
namespace upcycle {

// What the backward reads of a forward.
struct AttentionState {
  Tensor qkv;    // (T, qkv_local): projected, queries and keys rotated
  Tensor heads;  // (T, N_local D): what the heads give, before the output projection
  Tensor lse;    // fp32 (N_local, T)
};

struct AttentionScratch {
  Tensor dqkv, dheads;  // as qkv and heads
};

// The keys and values of one layer that a pass attends to where they are more than its own: a view, so that their owner
// decides how to store them. One sequence, not training.
struct PastKeysValues {
  Tensor k, v;                // (rows, K_local D): the past, then this pass's
  Tensor new_k, new_v;        // (T, K_local D): where this pass's are to be written, the last rows of k and v
  PackedSequences sequences;  // one, of `rows`
};

// out (T_local, H) = attention of x (T_local, H), the normalised residual. `past` null: within the batch's sequences.
void attention_forward(const ModelContext& m, const LayerWeights& w, const Tensor& out, const Tensor& x,
                       const AttentionState& saved, const Batch& batch, const PastKeysValues* past,
                       const SequenceBuffers& buffers);

// dx (T_local, H) = the gradient of x, from dout (T_local, H) that of out; weights' gradients are added to g.
void attention_backward(const ModelContext& m, const LayerWeights& w, const LayerWeights& g, const Tensor& dx,
                        const Tensor& dout, const Tensor& x, const AttentionState& saved, const Batch& batch,
                        const AttentionScratch& scratch, const SequenceBuffers& buffers);

}  // namespace upcycle
