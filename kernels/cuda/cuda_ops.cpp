#include "kernels/cuda/cuda_ops.h"

namespace upcycle {

std::unique_ptr<Ops> make_cuda_ops() { return std::make_unique<CudaOps>(); }

}  // namespace upcycle
