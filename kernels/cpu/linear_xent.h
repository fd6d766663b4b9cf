#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/gemm_cache.h"

// How the output projection with cross-entropy is cut: the outer loop is over vocabulary blocks, so that a block of the
// weight (and of its gradient) stays in cache while the inner loop visits all token blocks.
namespace upcycle {

inline constexpr std::int64_t kXentTokens = 512;  // rows of a block of logits
inline constexpr std::int64_t kXentVocab = 1024;  // its columns, at most

// Equal blocks, so that all but the last share their GEMM primitives.
inline std::int64_t block_size(std::int64_t total, std::int64_t largest) {
  constexpr std::int64_t kUnit = 32;
  const std::int64_t count = std::max<std::int64_t>(1, (total + largest - 1) / largest);
  return ((total + count - 1) / count + kUnit - 1) / kUnit * kUnit;
}

// The parts of one call's workspace. With a null address, only `bytes` and `gemm.bytes` are meaningful.
struct XentScratch {
  float* logits;  // (kXentTokens, kXentVocab) at most
  void* dlogits;  // the same in the activations' type; fp32: the logits' own memory
  float* dx;      // (T, H), where dx itself is not fp32
  Workspace gemm;
  std::size_t bytes;
};

XentScratch place_xent_scratch(void* base, std::int64_t T, std::int64_t V, std::int64_t H, DType dtype);

}  // namespace upcycle
