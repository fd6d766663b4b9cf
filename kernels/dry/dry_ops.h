#pragma once
#include <functional>
#include <memory>

#include "kernels/op_types.h"

namespace upcycle {

class Ops;

// What a rank computes, counted from its op calls. A multiply-add counts 2 FLOPs; causal attention counts half of S x S
// (as in training_flops_per_token); recomputation in a backward counts again.
struct OpCount {
  double flops = 0;         // of matrix products, attention and the output projection
  double head_flops = 0;    // the output projection's part: this tp rank's vocabulary, without padding
  double memory_bytes = 0;  // that these ops read and write at least: each operand once
};

// Ops that compute nothing: they count, and write only the expert counts, which the host reads: tokens * k assignments
// spread evenly over the experts, the remainder to the first ones. `workspace_bytes` gives the scratch size.
using WorkspaceBytes = std::function<std::size_t(const OpLimits&)>;
std::unique_ptr<Ops> make_dry_ops(OpCount& count, WorkspaceBytes workspace_bytes);

}  // namespace upcycle
