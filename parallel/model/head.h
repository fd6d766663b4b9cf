#pragma once
#include "parallel/model/sequence_parallel.h"

// Output projection and cross-entropy, vocabulary-parallel: the logits of a whole vocabulary never sit on one rank.
namespace upcycle {

// What a forward leaves.
struct HeadState {
  Tensor stats;  // fp32 (tp, T, 3): each tp rank's part of the softmax
  Tensor nll;    // fp32 (T): the negative log-likelihood of each target, 0 where it is not counted
  Tensor lse;    // fp32 (T)
};

// x (T_local, H), weight (V, H) -> (V_local, H), targets i32 (T): saved.nll, and loss_sum f64 (1) += its sum.
void head_forward(const ModelContext& m, const Tensor& weight, const Tensor& loss_sum, const Tensor& x,
                  const Tensor& targets, const HeadState& saved, const SequenceBuffers& buffers);

// dx (T_local, H) = the gradient of x for the loss scale * sum(nll); dweight fp32 (V_local, H) += its gradient.
void head_backward(const ModelContext& m, const Tensor& weight, const Tensor& dweight, const Tensor& dx,
                   const Tensor& x, const Tensor& targets, float scale, const HeadState& saved,
                   const SequenceBuffers& buffers);

// out fp32 (rows, V_local) = this tp rank's logits, padding included, of rows [row, row + rows) of T.
void head_logits(const ModelContext& m, const Tensor& weight, const Tensor& out, const Tensor& x, std::int64_t row,
                 std::int64_t rows, const SequenceBuffers& buffers);

// out fp32 (n, V_local): the same of `rows` i32 (n) of T, in any order. `hidden` (n, H) takes their inputs.
void head_logits_of(const ModelContext& m, const Tensor& weight, const Tensor& out, const Tensor& hidden,
                    const Tensor& x, const Tensor& rows, const SequenceBuffers& buffers);

}  // namespace upcycle
