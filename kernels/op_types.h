#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/tensor.h"

// Argument types of the ops, for code that needs the types but not the ops. Dimension letters: kernels/ops.h.
namespace upcycle {

// Scratch of one op call, from an arena; see Ops::workspace_bytes.
struct Workspace {
  void* data = nullptr;
  std::size_t bytes = 0;
};

// The largest sizes with which ops will be called on this rank; 0 for what does not occur.
struct OpLimits {
  std::int64_t T = 0, H = 0, F = 0, N = 0, K = 0, D = 0, V = 0, E = 0, k = 0;
  std::int64_t R = 0;      // rows of the expert buffer
  std::int64_t moe_F = 0;  // expert intermediate size
  DType dtype = DType::F32;
};

// Which operands of a matrix product are transposed; all matrices are row-major.
enum class MatmulKind : std::uint8_t {
  NT,  // C (m, n) = A (m, k) B (n, k)^T   forward: Y = X W^T
  NN,  // C (m, n) = A (m, k) B (k, n)     input gradient: dX = dY W
  TN,  // C (m, n) = A (k, m)^T B (k, n)   weight gradient: dW = dY^T X
};
enum class Store : std::uint8_t { Overwrite, Accumulate };

// Sequences packed one after another: sequence i holds rows [offsets[i], offsets[i + 1]). offsets: i32 (count + 1).
struct PackedSequences {
  Tensor offsets;
  std::int64_t count = 0;
  std::int64_t longest = 0;  // rows of the longest sequence (for launch sizes)
};

enum class RouterSoftmax : std::uint8_t { TopkThenSoftmax, SoftmaxThenTopk };

// Segments of the expert buffer begin at multiples of this many rows; rows between a segment's tokens and the next
// segment are zero, so that GEMMs can work on whole multiples with primitives prepared at start.
inline constexpr std::int64_t kExpertRowAlign = 16;

struct AdamwStep {
  float lr, beta1, beta2, eps, weight_decay;
  std::int64_t step;  // of this parameter, counted from 1 (bias correction)
};

}  // namespace upcycle
