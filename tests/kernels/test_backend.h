#pragma once
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include "core/device.h"
#include "kernels/ops.h"

// The backend under test: the CPU's; where a test is built against the emulated GPU (tests/cuda_host), CUDA's. The
// memory of either can be read on the host.
namespace upcycle::testing {

#if defined(UPCYCLE_GPU_EMULATED) || defined(UPCYCLE_GPU_TESTS)
std::unique_ptr<Device> make_test_device();  // in tests/cuda_host/cuda_backend.cpp, gpu_backend.cpp
std::unique_ptr<Ops> make_test_ops();
void* allocate_test_memory(std::size_t bytes);
void release_test_memory(void* data);
#else
inline std::unique_ptr<Device> make_test_device() { return make_cpu_device(); }
inline std::unique_ptr<Ops> make_test_ops() { return make_cpu_ops(); }
inline void* allocate_test_memory(std::size_t bytes) { return ::operator new(bytes); }
inline void release_test_memory(void* data) { ::operator delete(data); }
#endif

template <class T>
struct TestAllocator {
  using value_type = T;
  TestAllocator() = default;
  template <class U>
  TestAllocator(const TestAllocator<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(allocate_test_memory(n * sizeof(T))); }
  void deallocate(T* p, std::size_t) { release_test_memory(p); }
  bool operator==(const TestAllocator&) const { return true; }
};
// Memory that ops may be handed: what a tensor views, or scratch.
using Memory = std::vector<char, TestAllocator<char>>;
using Bytes = std::vector<std::byte, TestAllocator<std::byte>>;

}  // namespace upcycle::testing
