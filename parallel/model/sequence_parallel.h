#pragma once
#include "parallel/model/context.h"

// Sequence parallelism (arXiv 2205.05198): between attention and MLP a rank holds its T_local = T / tp rows of the
// residual, inside them all T rows and a part of the columns. Two operators lead from one to the other, the paper's g
// and its conjugate, under the names that Megatron gives them; each is the other's backward. With tp = 1 both are the
// identity.
namespace upcycle {

// What the two operators write to beside a function's result: (T, H) each.
struct SequenceBuffers {
  Tensor gathered, dgathered;  // all rows of an input, and of a gradient (tp > 1)
  Tensor partial;              // this rank's part of a sum over tp; with tp = 1 the result itself
};

// All-gather over tp: rows x (T_local, H) of every rank -> (T, H), in `all`; with tp = 1 x itself.
Tensor gather_from_sequence_parallel_region(const ModelContext& m, const Tensor& all, const Tensor& x);

// Reduce-scatter over tp: out (T_local, H) = this rank's rows of the sum of every rank's `partial` (T, H). With tp = 1
// the two are one tensor.
void reduce_scatter_to_sequence_parallel_region(const ModelContext& m, const Tensor& out, const Tensor& partial);

}  // namespace upcycle
