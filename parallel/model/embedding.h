#pragma once
#include "parallel/model/sequence_parallel.h"

// Token embedding, vocabulary-parallel: each tp rank looks up the tokens it holds, zeros elsewhere; the sum over tp is
// the embedding.
namespace upcycle {

// out (T_local, H) = rows `tokens` i32 (T) of table (V, H) -> (V_local, H).
void embedding_forward(const ModelContext& m, const Tensor& out, const Tensor& table, const Tensor& tokens,
                       const SequenceBuffers& buffers);

// dtable fp32 (V_local, H) += dout (T_local, H).
void embedding_backward(const ModelContext& m, const Tensor& dtable, const Tensor& dout, const Tensor& tokens,
                        const SequenceBuffers& buffers);

}  // namespace upcycle
