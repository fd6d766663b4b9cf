#include "kernels/cuda/cuda_ops.h"

#include <algorithm>

namespace upcycle {

std::size_t CudaOps::most_workspace(const OpLimits& limits) {
  std::size_t most = 0;
#define UPCYCLE_OP(name, ...)
#define UPCYCLE_OP_WITH_SCRATCH(name, ...) most = std::max(most, name##_workspace(limits));
#include "kernels/ops.inc"
  return most;
}

std::unique_ptr<Ops> make_cuda_ops() { return std::make_unique<CudaOps>(); }

}  // namespace upcycle
