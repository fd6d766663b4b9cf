#pragma once
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include "core/device.h"

// The backend under test, chosen by what a program links: cpu_backend.cpp, or CUDA's of tests/cuda_host
// (cuda_backend.cpp on the emulated GPU, gpu_backend.cpp on a real one). Tests are compiled once for all. The memory of
// each can be read on the host.
namespace upcycle {
class Ops;
}

namespace upcycle::testing {

std::unique_ptr<Device> make_test_device();
std::unique_ptr<Ops> make_test_ops();
void* allocate_test_memory(std::size_t bytes);
void release_test_memory(void* data);

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
