#pragma once
#include <functional>
#include <memory>

#include "kernels/op_types.h"

namespace upcycle {

class Ops;

// What a rank computes, counted where the ops are called. Sums of products count 2 FLOPs; causal attention half of
// S x S (as training_flops_per_token does); what is computed again in a backward counts again.
struct OpCount {
  double flops = 0;         // of matrix products, attention and the output projection
  double head_flops = 0;    // the output projection's part: this tp rank's words, padding is not computed
  double memory_bytes = 0;  // that those read and write at least: each operand once
};

// Ops that compute nothing: they count, and touch no memory but the expert counts, which the host reads: tokens * k
// assignments are spread evenly over the experts, what is left over to the first ones. Scratch is what
// `workspace_bytes` says.
using WorkspaceBytes = std::function<std::size_t(const OpLimits&)>;
std::unique_ptr<Ops> make_dry_ops(OpCount& count, WorkspaceBytes workspace_bytes);

}  // namespace upcycle
