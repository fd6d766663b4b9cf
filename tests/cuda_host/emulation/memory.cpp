// Device and pinned memory: one heap that the guard can close to host code, canaries by NaN, and the checks of
// pointers.
#include <execinfo.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
#include <string>
#if defined(UPCYCLE_EMUL_ASAN)
#include <sanitizer/asan_interface.h>
#endif

#include "tests/cuda_host/emulation/runtime_internal.h"

namespace emul {
namespace {

struct Alloc {
  std::size_t bytes = 0, span = 0;
  enum Kind { device, pinned } kind = device;
  bool freed = false;
};
constexpr std::size_t kHeap = std::size_t(64) << 30;
// What the guard opens and closes at once: of large pages, as closing and opening takes time for each.
constexpr std::size_t kPage = std::size_t(2) << 20;
constexpr std::size_t kMemory = std::size_t(8) << 30;  // what the device says it has

[[maybe_unused]] void on_fault(int number, siginfo_t* info, void*);

struct Memory {
  char* heap = nullptr;
  std::size_t top = 0;
  std::multimap<std::size_t, char*> free_spans;
  std::map<const char*, Alloc> allocs;  // by start
  std::list<PinnedUse*> uses;
  int access = 0;
  bool guard = false;
  std::size_t live = 0, peak = 0;

  Memory() {
    if (const char* g = std::getenv("UPCYCLE_EMUL_GUARD")) {
      if (std::strcmp(g, "0") != 0 && std::strcmp(g, "1") != 0) {
        std::fprintf(stderr, "emul: UPCYCLE_EMUL_GUARD=%s: 0 or 1\n", g);
        std::_Exit(2);
      }
      guard = *g == '1';
    }
    void* room = mmap(nullptr, kHeap + kPage, guard ? PROT_NONE : PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) {
      std::perror("emul: heap");
      std::abort();
    }
    heap = reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(room) + kPage - 1) / kPage * kPage);
    if (guard) madvise(heap, kHeap, MADV_HUGEPAGE);  // where the system has them
    if (guard) explain_faults();
  }
  void protect(int how) const {
    if (guard && top) mprotect(heap, (top + kPage - 1) / kPage * kPage, how);
  }
  void open() const { protect(PROT_READ | PROT_WRITE); }
  void close() const { protect(PROT_NONE); }
  static void explain_faults() {
#if !defined(UPCYCLE_EMUL_ASAN) && !defined(UPCYCLE_EMUL_TSAN)
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_RESETHAND;
    sigaction(SIGSEGV, &action, nullptr);
#endif
  }
};
Memory& mem() {
  static Memory* m = new Memory;
  return *m;
}

bool in_heap(const void* p) {
  const auto c = static_cast<const char*>(p);
  return c >= mem().heap && c < mem().heap + kHeap;
}
auto find_alloc(const void* p) {
  auto& m = mem().allocs;
  const char* c = static_cast<const char*>(p);
  auto it = m.upper_bound(c);
  if (it == m.begin()) return m.end();
  --it;
  return c < it->first + std::max<std::size_t>(it->second.bytes, 1) ? it : m.end();
}

// The faulting instruction runs again with the default action, so the process still dies of the signal.
void on_fault(int, siginfo_t* info, void*) {
  if (!in_heap(info->si_addr)) return;
  const char text[] = "emul: host code touches device memory:\n";
  [[maybe_unused]] const auto n = write(2, text, sizeof text - 1);
  void* frames[32];
  backtrace_symbols_fd(frames, backtrace(frames, 32), 2);
}

cudaError_t allocate_device(void** out, std::size_t bytes) {
  const Turn turn;
  Memory& m = mem();
  if (sticky() != cudaSuccess) return sticky();
  if (!out) return fail(cudaErrorInvalidValue, "cudaMalloc: null result pointer");
  *out = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (m.live + bytes > kMemory) return keep(cudaErrorMemoryAllocation);
  constexpr std::size_t gap = 256;
  std::size_t span = (bytes + gap + 255) / 256 * 256;
  char* p = nullptr;
  const auto it = m.free_spans.lower_bound(span);
  if (it != m.free_spans.end() && it->first <= span * 2) {
    p = it->second;
    span = it->first;
    m.free_spans.erase(it);
  } else {
    if (m.top + span > kHeap) return fail(cudaErrorMemoryAllocation, "cudaMalloc: out of emulated memory");
    p = m.heap + m.top;
    m.top += span;
    if (m.access) m.open();
  }
  m.allocs[p] = {bytes, span, Alloc::device, false};
  DeviceAccess a;
#if defined(UPCYCLE_EMUL_ASAN)
  __asan_unpoison_memory_region(p, bytes);
  __asan_poison_memory_region(p + (bytes + 7) / 8 * 8, span - (bytes + 7) / 8 * 8);
#endif
  std::memset(p, 0xFF, bytes);  // uninitialised device memory is NaN / -1
  m.live += bytes;
  m.peak = std::max(m.peak, m.live);
  ++counters().device_allocations;
  *out = p;
  return cudaSuccess;
}

void release_device(const void* start) {
  Memory& m = mem();
  const auto it = m.allocs.find(static_cast<const char*>(start));
  DeviceAccess a;
  char* p = const_cast<char*>(it->first);
  std::memset(p, 0xFF, it->second.bytes);
#if defined(UPCYCLE_EMUL_ASAN)
  __asan_poison_memory_region(p, it->second.span);
#endif
  m.live -= it->second.bytes;
  m.free_spans.emplace(it->second.span, p);
  m.allocs.erase(it);
}

bool is_start(const void* p, Alloc::Kind kind) {
  const auto it = find_alloc(p);
  return it != mem().allocs.end() && it->first == p && it->second.kind == kind && !it->second.freed;
}

}  // namespace

DeviceAccess::DeviceAccess() {
  const Turn turn;
  if (mem().access++ == 0) mem().open();
}
DeviceAccess::~DeviceAccess() {
  const Turn turn;
  if (--mem().access == 0) mem().close();
}
HostCode::HostCode() : before_(mem().access) {
  mem().access = 0;
  if (before_) mem().close();
}
HostCode::~HostCode() {
  mem().access = before_;
  if (before_) mem().open();
}
void set_guard(bool on) {
  Memory& m = mem();
  mprotect(m.heap, kHeap, on && !m.access ? PROT_NONE : PROT_READ | PROT_WRITE);
  m.guard = on;
}
std::size_t live_bytes() { return mem().live; }

Where classify(const void* p, std::size_t n) {
  const Turn turn;
  const auto it = find_alloc(p);
  if (it == mem().allocs.end()) return in_heap(p) ? Where::bad : Where::host;
  if (it->second.freed || static_cast<const char*>(p) + n > it->first + it->second.bytes) return Where::bad;
  return it->second.kind == Alloc::device ? Where::device : Where::pinned;
}
bool check_device_pointer(const void* p) {
  const Turn turn;
  const auto it = find_alloc(p);
  return it != mem().allocs.end() && !it->second.freed;
}

PinnedUse::PinnedUse(const void* p, std::size_t bytes)
    : begin(static_cast<const char*>(p)), end(static_cast<const char*>(p) + bytes) {
  const Turn turn;
  mem().uses.push_back(this);
}
PinnedUse::~PinnedUse() {
  const Turn turn;
  mem().uses.remove(this);
}
std::size_t live_pinned_bytes() {
  std::size_t live = 0;
  for (const auto& [start, a] : mem().allocs) live += a.kind == Alloc::pinned ? a.bytes : 0;
  return live;
}

bool pinned_in_use(const void* p, std::size_t bytes) {
  const Turn turn;
  const char* c = static_cast<const char*>(p);
  return std::any_of(mem().uses.begin(), mem().uses.end(),
                     [&](const PinnedUse* u) { return u->begin < c + bytes && c < u->end; });
}

}  // namespace emul

using namespace emul;
extern "C" {
cudaError_t cudaMalloc(void** p, size_t n) { return allocate_device(p, n); }
cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t) { return allocate_device(p, n); }
cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  const Turn turn;
  sync_device();
  if (!is_start(p, Alloc::device)) return fail(cudaErrorInvalidValue, "cudaFree: not an allocation start");
  release_device(p);
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t s) {
  if (!p) return cudaSuccess;
  if (!is_start(p, Alloc::device)) return fail(cudaErrorInvalidValue, "cudaFreeAsync: not an allocation start");
  find_alloc(p)->second.freed = true;
  enqueue_fn(s, [p] { release_device(p); });
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) {
  const Turn turn;
  if (sticky() != cudaSuccess) return sticky();
  *p = nullptr;
  if (n == 0) return cudaSuccess;
  *p = std::aligned_alloc(4096, (n + 4095) / 4096 * 4096);
  if (!*p) return keep(cudaErrorMemoryAllocation);
  std::memset(*p, 0xFF, n);
  mem().allocs[static_cast<char*>(*p)] = {n, n, Alloc::pinned, false};
  ++counters().host_allocations;
  return cudaSuccess;
}
// Of the C++ header too, with a default for the flags.
cudaError_t cudaMallocHost(void** p, size_t n) { return cudaHostAlloc(p, n, 0); }
// The documentation does not promise that it waits for copies, so code must have waited itself.
cudaError_t cudaFreeHost(void* p) {
  if (!p) return cudaSuccess;
  const Turn turn;
  if (!is_start(p, Alloc::pinned)) return fail(cudaErrorInvalidValue, "cudaFreeHost: not an allocation start");
  const auto it = mem().allocs.find(static_cast<char*>(p));
  if (pinned_in_use(p, it->second.bytes)) {
    std::fprintf(stderr, "emul: cudaFreeHost: a copy that has not run still uses the memory\n");
    std::abort();
  }
  mem().allocs.erase(it);
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  *total = options().memory > 0 ? std::min<std::size_t>(kMemory, options().memory) : kMemory;
  *free_bytes = *total - std::min<std::size_t>(*total, mem().live);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  *a = {};
  const Where where = classify(p, 1);
  a->type = where == Where::device   ? cudaMemoryTypeDevice
            : where == Where::pinned ? cudaMemoryTypeHost
                                     : cudaMemoryTypeUnregistered;
  if (a->type == cudaMemoryTypeUnregistered) {
    a->device = -2;
    return cudaSuccess;
  }
  a->devicePointer = const_cast<void*>(p);
  if (a->type == cudaMemoryTypeHost) a->hostPointer = const_cast<void*>(p);
  return cudaSuccess;
}
}  // extern "C"
