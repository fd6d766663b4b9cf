#include "kernels/cpu/cpu_ops.h"
#include "tests/kernels/test_backend.h"

// The CPU's backend, in a library: programs that bring a backend of their own do not take it.
namespace upcycle::testing {

std::unique_ptr<Device> make_test_device() { return make_cpu_device(); }
std::unique_ptr<Ops> make_test_ops() { return make_cpu_ops(); }
void* allocate_test_memory(std::size_t bytes) { return ::operator new(bytes); }
void release_test_memory(void* data) { ::operator delete(data); }

}  // namespace upcycle::testing
