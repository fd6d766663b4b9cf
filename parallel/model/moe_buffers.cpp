#include "parallel/model/moe_buffers.h"

#include <algorithm>
#include <cmath>

namespace upcycle {

MoeBuffers moe_buffers(const Sizes& s, const Layout& layout, const PassShape& pass) {
  MoeBuffers b;
  b.tokens = layout.etp > 1 ? pass.T() : pass.T() / layout.tp;
  b.slots = b.tokens * s.k;
  if (layout.ep > 1) b.chunks = std::clamp<std::int64_t>(pass.dispatch_chunks, 1, b.tokens);
  const auto padded = [&](std::int64_t rows) {
    const std::int64_t align = pass.expert_row_align, most = rows + b.chunks * s.E_local * (align - 1);
    return (most + align - 1) / align * align;
  };
  if (layout.ep == 1) {
    b.slots = b.rows = padded(b.slots);
    return b;
  }
  // The even share is what a rank sends. One token can always be received of each rank, or no round would fit.
  const std::int64_t most = layout.ep * b.tokens * std::min(s.k, s.E_local),
                     least = layout.ep * std::min(s.k, s.E_local);
  const auto share = static_cast<std::int64_t>(std::ceil(pass.imbalance_factor * static_cast<double>(b.slots)));
  b.received = std::min(most, std::max(share, least));
  b.rows = padded(b.received);
  return b;
}

}  // namespace upcycle
