#include "tests/serve_mpi/count_allocations.h"

#include <atomic>
#include <cstdlib>
#include <new>

// In a file of its own: where the compiler sees both, it warns that memory from one is freed by the other.
extern "C" const char __executable_start, etext;  // the linker's: where this program's code begins and ends

namespace {
std::atomic<std::int64_t> count{0};
}  // namespace

#define COUNT_CALLER()                                                          \
  do {                                                                          \
    const auto* caller = static_cast<const char*>(__builtin_return_address(0)); \
    count += caller >= &__executable_start && caller < &etext;                  \
  } while (false)

void* operator new(std::size_t bytes, std::align_val_t alignment) {
  COUNT_CALLER();
  const auto a = static_cast<std::size_t>(alignment);
  if (void* p = std::aligned_alloc(a, (bytes + a - 1) / a * a)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void* operator new(std::size_t bytes) {
  COUNT_CALLER();
  if (void* p = std::malloc(bytes > 0 ? bytes : 1)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace upcycle::test {
std::int64_t allocation_count() { return count; }
}  // namespace upcycle::test
