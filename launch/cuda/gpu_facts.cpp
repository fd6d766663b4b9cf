#include "launch/gpu_facts.h"

#include <cuda_runtime.h>
#include <fmt/core.h>

#include "core/cuda_error.h"
#include "parallel/comm/nccl_library.h"

namespace upcycle::cuda {

std::string gpu_facts(int gpu) {
  cudaDeviceProp p{};
  UPCYCLE_CUDA(cudaGetDeviceProperties(&p, gpu));
  int runtime = 0, driver = 0;
  UPCYCLE_CUDA(cudaRuntimeGetVersion(&runtime));
  UPCYCLE_CUDA(cudaDriverGetVersion(&driver));
  return fmt::format("{}, {:.0f} GiB, compute capability {}.{}; CUDA {}.{}, driver for {}.{}; {}", p.name,
                     static_cast<double>(p.totalGlobalMem) / (1 << 30), p.major, p.minor, runtime / 1000,
                     runtime % 1000 / 10, driver / 1000, driver % 1000 / 10, nccl_library());
}

}  // namespace upcycle::cuda
