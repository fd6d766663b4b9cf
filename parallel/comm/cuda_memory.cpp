#include "parallel/comm/cuda_memory.h"

namespace upcycle {

MemoryClass cuda_estimate(int communicators) {
  constexpr std::size_t context = std::size_t{512} << 20, communicator = std::size_t{256} << 20;
  return {"CUDA and NCCL (estimate)", context + static_cast<std::size_t>(communicators) * communicator};
}

}  // namespace upcycle
