#pragma once
#include "parallel/model/attention.h"
#include "parallel/model/context.h"
#include "parallel/model/weights.h"

// RMSNorm of queries and keys before RoPE: of each head by itself (qk_norm head, as in arXiv 2010.04245), or of all
// heads together. tp ranks have some of the heads each: a norm of all adds up their sums of squares.
namespace upcycle {

// The numbers fp32 of (rows, norms of a row), for queries and then for keys, that a norm of T rows keeps in one piece.
std::int64_t qk_norm_numbers(const ModelConfig& model, const Sizes& sizes, std::int64_t T);

// saved.qk = the normed queries and keys of saved.qkv, saved.squares = the sums that the backward reads.
void qk_norm_forward(const ModelContext& m, const LayerWeights& w, const AttentionState& saved);

// dqk (T, (N_local + K_local) D): the gradients of saved.qk -> of what was normed, in place; weights' are added to g.
void qk_norm_backward(const ModelContext& m, const LayerWeights& w, const LayerWeights& g, const Tensor& dqk,
                      const AttentionState& saved, const AttentionScratch& scratch);

}  // namespace upcycle
