#pragma once
#include "parallel/model/pass_shape.h"
#include "parallel/model/sizes.h"

namespace upcycle {

// Rows of an MoE layer's buffers on this rank.
struct MoeBuffers {
  std::int64_t tokens = 0;    // that this rank routes to experts: T_local, or T when etp = tp
  std::int64_t slots = 0;     // slot layout (dispatch.h)
  std::int64_t received = 0;  // from the ep group; 0 when ep = 1
  std::int64_t chunks = 1;    // that the tokens are cut into where ep > 1: see dispatch.h
  std::int64_t rows = 0;      // R, expert rows: with the padding of each local expert, for each chunk
};
MoeBuffers moe_buffers(const Sizes& sizes, const Layout& layout, const PassShape& pass);

}  // namespace upcycle
