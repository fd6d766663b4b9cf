#include <cuda_runtime.h>

#include <cstdlib>

#include "core/cuda_error.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_ops.h"
#include "tests/cuda_host/settled_ops.h"
#include "tests/kernels/test_backend.h"

// The CUDA backend on a GPU, for the tests that elsewhere run it on the emulated one (launch/gpu_check.sh). Tests read
// managed memory, and every op has ended when it returns.
namespace upcycle::testing {

// Under mpirun each rank has the GPU of its number on the host.
std::unique_ptr<Device> make_test_device() {
  const char* rank = std::getenv("OMPI_COMM_WORLD_LOCAL_RANK");
  return make_cuda_device(rank == nullptr ? 0 : std::atoi(rank));
}
#if defined(UPCYCLE_TESTS_TOUCH_DEVICE_MEMORY)
std::unique_ptr<Ops> make_test_ops() { return std::make_unique<SettledOps>(make_cuda_ops()); }
#else
std::unique_ptr<Ops> make_test_ops() { return make_cuda_ops(); }
#endif
void* allocate_test_memory(std::size_t bytes) {
  void* p = nullptr;
  UPCYCLE_CUDA(cudaMallocManaged(&p, bytes));
  return p;
}
void release_test_memory(void* data) { cudaFree(data); }

}  // namespace upcycle::testing

// Tests choose the emulation's schedules; a GPU has its own.
namespace emul {

Options& options() {
  static Options unused;
  return unused;
}
HostCode::HostCode() : before_(0) {}
HostCode::~HostCode() { (void)before_; }

}  // namespace emul
