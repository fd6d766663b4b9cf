#include <cuda_runtime.h>

#include "core/cuda_error.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_ops.h"
#include "tests/kernels/test_backend.h"
#if defined(UPCYCLE_TESTS_TOUCH_DEVICE_MEMORY)
#include "tests/cuda_host/settled_ops.h"
#endif

// The CUDA backend on the emulated GPU.
namespace upcycle::testing {

std::unique_ptr<Device> make_test_device() { return make_cuda_device(0); }
#if defined(UPCYCLE_TESTS_TOUCH_DEVICE_MEMORY)
std::unique_ptr<Ops> make_test_ops() { return std::make_unique<SettledOps>(make_cuda_ops()); }
void open_device_memory() { static const emul::DeviceAccess open; }
#else
std::unique_ptr<Ops> make_test_ops() { return make_cuda_ops(); }
void open_device_memory() {}
#endif
void* allocate_test_memory(std::size_t bytes) {
  open_device_memory();
  void* p = nullptr;
  UPCYCLE_CUDA(cudaMalloc(&p, bytes));
  return p;
}
void release_test_memory(void* data) { cudaFree(data); }

}  // namespace upcycle::testing
