#include "launch/backend.h"

#include <cuda_profiler_api.h>

#include <array>

#include "core/cuda_error.h"
#include "core/error.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_ops.h"
#include "parallel/comm/comm_nccl.h"

namespace upcycle::cuda {

int count_gpus() {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);  // if it fails, count is meaningless
  if (found != cudaSuccess) throw InputError(cudaGetErrorString(found));
  if (count < 1) throw InputError("CUDA sees none");
  return count;
}

std::string gpu_address(int gpu) {
  std::array<char, 32> text{};
  UPCYCLE_CUDA(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), gpu));
  return text.data();
}

int capability(int gpu) {
  int major = 0, minor = 0;
  UPCYCLE_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, gpu));
  UPCYCLE_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, gpu));
  return 10 * major + minor;
}

namespace {
struct GpuMemory {
  std::size_t free = 0, total = 0;  // bytes
};
GpuMemory memory_of(int gpu) {
  GpuMemory m;
  UPCYCLE_CUDA(cudaSetDevice(gpu));
  UPCYCLE_CUDA(cudaMemGetInfo(&m.free, &m.total));
  return m;
}
}  // namespace

std::size_t free_memory(int gpu) { return memory_of(gpu).free; }
std::size_t used_memory(int gpu) {
  const GpuMemory m = memory_of(gpu);
  return m.total - m.free;
}

void set_profiling(bool on) {
  UPCYCLE_CUDA(cudaDeviceSynchronize());  // work issued earlier must not fall into the window
  if (on)
    UPCYCLE_CUDA(cudaProfilerStart());
  else
    UPCYCLE_CUDA(cudaProfilerStop());
}

Backend make_backend(int gpu) {
  Backend b;
  b.device = make_cuda_device(gpu);
  b.stream = b.device->make_stream();
  b.ops = make_cuda_ops();
  b.gpu = gpu;
  return b;
}

Mesh make_mesh(const Backend& backend, const MpiSession& session, const Layout& layout) {
  return make_nccl_mesh(session, layout, *backend.device, *backend.stream);
}

}  // namespace upcycle::cuda
