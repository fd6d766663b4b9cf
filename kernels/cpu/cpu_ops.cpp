#include "kernels/cpu/cpu_ops.h"

#include <algorithm>

namespace upcycle {

std::size_t CpuOps::workspace_bytes(const OpLimits& limits) const {
  return std::max({matmul_workspace(limits), linear_xent_workspace(limits), attention_workspace(limits),
                   rms_norm_workspace(limits), embedding_workspace(limits), sort_workspace(limits),
                   sum_squares_workspace(limits)});
}

std::unique_ptr<Ops> make_cpu_ops() { return std::make_unique<CpuOps>(); }

}  // namespace upcycle
