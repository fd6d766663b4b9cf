// Shared between the emulation's own files, and read by tests that choose a mode or look at its counters.
#pragma once
#include <cuda_runtime.h>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace emul {
struct LaunchDims;
enum class Order { forward, reverse, random };
// As the environment says at the first use (README.md); tests change them.
struct Options {
  Order order = Order::forward;
  std::uint64_t seed = 1;
  int os_threads = 1;
  bool deferred = false;  // streams hold their work back until the host waits, and pass one another at random
  bool strict = true;     // flag code that hardware tolerates but CUDA does not promise
  bool abort_on_error = false;
  bool quiet = false;
  int devices = 8;         // 0: none; -1: no driver
  int capability = 90;     // compute capability 9.0
  std::size_t memory = 0;  // bytes that a GPU says it has; 0: what is set aside for it
};
Options& options();
std::string& last_message();  // text of the last device-side error (tests look at it)
struct Stats {
  std::uint64_t switches = 0, blocks = 0, launches = 0;
};
Stats& stats();

// What the backend asked of the runtime so far.
struct Counters {
  std::uint64_t device_allocations = 0, host_allocations = 0;
  std::uint64_t device_waits = 0, stream_waits = 0, event_waits = 0;  // the host waited
  std::uint64_t copies = 0;
  std::uint64_t copies_that_wait = 0;  // to pageable memory, or not asynchronous: the host waits too
  std::uint64_t profiler_starts = 0, profiler_stops = 0;
  std::uint64_t nccl_communicators = 0;  // made
  std::uint64_t nccl_launches = 0;       // calls, or groups of calls
  std::uint64_t nccl_threads = 0;        // that NCCL would have made for them: one each for a non-blocking communicator
};
Counters& counters();

cudaError_t run_grid(const LaunchDims&, const std::function<void()>& body);

// Stream work: step() returns true when finished. Called repeatedly (NCCL ops poll MPI).
struct Op_ {
  virtual ~Op_() = default;
  virtual bool step() = 0;
};
void enqueue(cudaStream_t, std::unique_ptr<Op_>);
void enqueue_fn(cudaStream_t, std::function<void()>);
void sync_stream(cudaStream_t);
void sync_device();
bool pump_once();  // one step of some stream; false when nothing is queued
void set_sticky(cudaError_t);
cudaError_t sticky();
cudaError_t fail(cudaError_t, const char* what);  // says so on stderr and remembers it
cudaError_t keep(cudaError_t);                    // remembers an error for cudaGetLastError
void reset_error();
void reseed(std::uint64_t);
// A deferred stream's work from now on runs when nothing else can: it is as late as its events allow.
void run_last(cudaStream_t);

// One thread at a time: a program's other threads wait for events too, and move the streams meanwhile. Nests.
struct Turn {
  Turn();
  ~Turn();
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
};

// Opens device memory to this process's host code while it lives: emulated device work.
struct DeviceAccess {
  DeviceAccess();
  ~DeviceAccess();
};
// The reverse, within a test that has opened device memory for itself: host code under test.
struct HostCode {
  HostCode();
  ~HostCode();

 private:
  int before_;
};
void set_guard(bool on);
std::size_t live_bytes();
std::size_t live_pinned_bytes();

enum class Where { host, pinned, device, bad };
Where classify(const void* p, std::size_t bytes);
bool check_device_pointer(const void* p);  // inside a live device or pinned allocation

// Pinned memory that queued work will read or write; it stays listed while the object lives.
struct PinnedUse {
  PinnedUse(const void* p, std::size_t bytes);
  ~PinnedUse();
  PinnedUse(const PinnedUse&) = delete;
  PinnedUse& operator=(const PinnedUse&) = delete;
  const char *begin, *end;
};
bool pinned_in_use(const void* p, std::size_t bytes);
}  // namespace emul
