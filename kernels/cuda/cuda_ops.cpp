#include "kernels/cuda/cuda_ops.h"

#include <algorithm>

namespace upcycle {

std::size_t cuda::workspace_bytes(const OpLimits& limits) {
  return std::max({matmul_workspace(limits), linear_xent_workspace(limits), attention_workspace(limits),
                   rms_norm_workspace(limits), embedding_workspace(limits), router_workspace(limits),
                   sort_workspace(limits), sum_squares_workspace(limits)});
}

std::size_t CudaOps::workspace_bytes(const OpLimits& limits) const { return cuda::workspace_bytes(limits); }

std::unique_ptr<Ops> make_cuda_ops() { return std::make_unique<CudaOps>(); }

}  // namespace upcycle
