#include "kernels/cpu/cpu_ops.h"

#include <algorithm>

namespace upcycle {

std::size_t CpuOps::most_workspace(const OpLimits& limits) {
  std::size_t most = 0;
#define UPCYCLE_OP(name, ...)
#define UPCYCLE_OP_WITH_SCRATCH(name, ...) most = std::max(most, name##_workspace(limits));
#include "kernels/ops.inc"
  return most;
}

std::unique_ptr<Ops> make_cpu_ops() { return std::make_unique<CpuOps>(); }

}  // namespace upcycle
