#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/stochastic_rounding.h"
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
  // Of the widest bias, and of the widest weight of a norm of heads.
  std::int64_t bias = 0, head_norm = 0;
  // Of serving: most keys of a sequence, most sequences (and rows of logits) at once, the whole vocabulary.
  std::int64_t keys = 0, sequences = 0, vocabulary = 0;
  DType dtype = DType::F32;
};

// Which operands of a matrix product are transposed; all matrices are row-major.
enum class MatmulKind : std::uint8_t {
  NT,  // C (m, n) = A (m, k) B (n, k)^T   forward: Y = X W^T
  NN,  // C (m, n) = A (m, k) B (k, n)     input gradient: dX = dY W
  TN,  // C (m, n) = A (k, m)^T B (k, n)   weight gradient: dW = dY^T X
};
enum class Store : std::uint8_t { Overwrite, Accumulate };

// Of the gate of a gated MLP. Both are x * sigmoid(z): z = x, or GELU (arXiv 1606.08415) in the form with tanh, whose z
// is 2 sqrt(2 / pi) (x + 0.044715 x^3).
enum class GateActivation : std::uint8_t { Silu, GeluTanh };

// What a norm multiplies by: its weight, or 1 + its weight (in fp32), so that a weight of 0 is neutral.
enum class NormWeight : std::uint8_t { Plain, UnitOffset };

// Sequences packed one after another: sequence i holds rows [offsets[i], offsets[i + 1]). offsets: i32 (count + 1).
struct PackedSequences {
  Tensor offsets;
  std::int64_t count = 0;
  std::int64_t longest = 0;  // rows of the longest sequence (for launch sizes)
};

// Keys and values of one layer in pages (arXiv 2309.06180): page p holds P rows of each of the K heads, a head's rows
// one after another. P is a power of two from 8 to 64.
struct PagedCache {
  Tensor k, v;  // (pages, K, P, D), contiguous
  std::int64_t page_rows() const { return k.shape[2]; }
};

// Sequences whose keys and values lie in pages. The query rows of sequence i, rows [offsets[i], offsets[i + 1]) packed
// one sequence after another, are the last of its lengths[i] keys.
struct PagedSequences {
  Tensor offsets;  // i32 (count + 1)
  Tensor lengths;  // i32 (count): keys, at least as many as query rows
  Tensor pages;    // i32 (count, most): in order; entries past a sequence's length are not read
  std::int64_t count = 0;
  std::int64_t most_rows = 0, most_keys = 0;  // of one sequence (for launch sizes)
};

// How each row of logits is drawn from, on the device.
struct SamplingRows {
  Tensor temperature;  // fp32 (rows), 0: the most likely token
  Tensor top_k;        // i32 (rows), 0: all
  Tensor top_p;        // fp32 (rows), in (0, 1]
  Tensor uniform;      // fp32 (rows), in [0, 1): the draw
};

enum class RouterSoftmax : std::uint8_t { TopkThenSoftmax, SoftmaxThenTopk };

// Segments of the expert buffer begin at multiples of this many rows; rows between a segment's tokens and the next
// segment are zero, so that GEMMs can work on whole multiples with primitives prepared at start.
inline constexpr std::int64_t kExpertRowAlign = 16;

// How moments in bf16 are rounded: at random, by the number of each element in its global matrix, so that every layout
// draws the same. Element i of the update is element first + i / width * pitch + i % width.
struct MomentRounding {
  DrawStream m, v;
  std::int64_t first = 0, width = 1, pitch = 1;
};

// What an optimizer updates in place: n elements of each tensor, dense. Sums and products are in fp32 in whatever form
// the state lies, and give the same bits for every form of the master.
struct UpdateTensors {
  Tensor param;   // fp32 or bf16: the master, rounded to nearest even
  Tensor master;  // fp32 (may be param itself); or, beside a bf16 param, its low half: 16 bits that are typed bf16
  Tensor m, v;    // the moments that the rule has: fp32 or bf16, both alike
  Tensor grad;    // fp32
  Tensor ties =
      {};  // i32 ((n + 31) / 32), with low halves only: bit i % 32 of word i / 32 is raised_tie (split_float.h)
  MomentRounding rounding = {};
};

struct AdamwStep {
  float lr, beta1, beta2, eps, weight_decay;
  std::int64_t step;  // of this parameter, counted from 1 (bias correction)
};

struct LionStep {
  float lr, beta1, beta2, weight_decay;  // beta1: of the moment in the update; beta2: the moment's decay
};

}  // namespace upcycle
