#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/op_types.h"

// The computations of one device: an interface that every backend implements. Dimension letters:
//   B sequences, S sequence length, T = B*S tokens, V vocabulary rows held here, H hidden, F MLP or expert intermediate
//   size, N query heads, K key/value heads, D head size, E experts, k experts per token, R rows of an expert buffer.
//
// Rules of every op:
//   - asynchronous on `stream`; allocates nothing; never reads device data on the host.
//   - "activation" tensors are bf16 or fp32 (the same type within one call); statistics, losses and parameter
//     gradients are fp32. Sums run at least in fp32, in an order that does not depend on timing: same inputs, same
//     bits.
//   - parameter gradients ACCUMULATE (+=) over microbatches. Activation gradients overwrite (=), except
//     where an op says +=.
//   - shapes are checked; a mismatch throws Error.
namespace upcycle {

class Stream;

class Ops {
 public:
  virtual ~Ops() = default;

  // Scratch that any single op call within `limits` needs.
  virtual std::size_t workspace_bytes(const OpLimits& limits) const = 0;
  // Builds in advance what a step should not build: GEMM primitives for grouped_matmul's row counts up to limits.R.
  virtual void prepare(const OpLimits& limits) = 0;

  // The ops, with the shapes of their arguments and what they do with them: kernels/ops.inc.
#define UPCYCLE_OP(name, ...) virtual void name(__VA_ARGS__) = 0;
#include "kernels/ops.inc"
};

}  // namespace upcycle
