#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/op_types.h"

// How a backend cuts the output projection with cross-entropy into blocks of logits, and where the parts of a call's
// scratch lie.
namespace upcycle {

struct XentCut {
  std::int64_t tokens, vocab;         // rows and columns of a block, at most
  std::int64_t unit;                  // of which columns are a multiple
  std::size_t alignment, gemm_bytes;  // of a part, in bytes; of a matrix product's own scratch
};

// Nearly equal blocks.
constexpr std::int64_t block_size(std::int64_t total, std::int64_t largest, std::int64_t unit) {
  const std::int64_t count = std::max<std::int64_t>(1, (total + largest - 1) / largest);
  return ((total + count - 1) / count + unit - 1) / unit * unit;
}

// For x (T, H), weight (V, H). With a null address, only `bytes` and `gemm.bytes` are meaningful.
struct XentScratch {
  float* logits;  // (tokens, vocab) at most
  void* dlogits;  // the same in the activations' type; fp32: the logits' own memory
  float* dx;      // (T, H), where dx itself is not fp32
  Workspace gemm;
  std::size_t bytes;
};
XentScratch place_xent_scratch(const XentCut& cut, void* base, std::int64_t T, std::int64_t V, std::int64_t H,
                               DType dtype);

}  // namespace upcycle
