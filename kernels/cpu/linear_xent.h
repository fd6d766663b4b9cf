#pragma once
#include "kernels/cpu/gemm_cache.h"
#include "kernels/xent_scratch.h"

namespace upcycle {

// The outer loop is over vocabulary blocks, equal ones, so that all but the last share their GEMM primitives: a block
// of the weight (and of its gradient) stays in cache while the inner loop visits all token blocks.
inline XentCut xent_cut() { return {512, 1024, 32, 64, GemmCache::workspace_bytes()}; }

}  // namespace upcycle
