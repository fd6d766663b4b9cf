#pragma once
#include <cstdint>

#include "kernels/op_types.h"
#include "parallel/model/recompute.h"

namespace upcycle {

// The size of one pass over a model, forward or both ways, and how it is run.
struct PassShape {
  std::int64_t B = 1, S = 1;   // sequences and their length; T = B * S rows, divisible by tp
  std::int64_t padding = 0;    // of the last rows: no tokens, so no expert's work (inference)
  std::int64_t positions = 0;  // of the RoPE table; 0: S (a pass over cached sequences: the longest's)
  std::int64_t sequences = 0;  // cached ones at most; 0: the pass has its B
  bool documents = false;      // sequences may be cut into documents: as many as there are rows
  bool training = true;        // false: forward only, one layer's activations are kept
  Recompute recompute;
  DType dtype = DType::F32;
  double imbalance_factor = 2;                      // expert buffers hold this multiple of the even share (ep > 1)
  std::int64_t expert_row_align = kExpertRowAlign;  // 1 where a CPU infers: padding is not computed
  std::int64_t dispatch_chunks = 1;                 // see moe_buffers().chunks
  std::int64_t T() const { return B * S; }
};

}  // namespace upcycle
