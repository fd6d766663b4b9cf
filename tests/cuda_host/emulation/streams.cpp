// Streams, events and copies. Eager: work runs when it is given. Deferred: it waits in its stream's queue until the
// host waits for something, and then streams overtake one another at random as far as events allow. One piece of work
// is never cut by another's.
#include <sched.h>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <random>
#include <set>
#include <vector>

#include "kernels/cuda/gpu.cuh"
#include "tests/cuda_host/emulation/runtime_internal.h"

using emul::Op_;
struct CUevent_st {
  std::shared_ptr<bool> last = std::make_shared<bool>(true);  // done flag of the latest record
  bool timing = true;
  std::chrono::steady_clock::time_point when{};
};
struct CUstream_st {
  std::deque<std::unique_ptr<Op_>> q;
  bool non_blocking = false;
  bool busy = false;
  bool last = false;  // run_last
  int device = 0;
  std::uint64_t number = 0, priority = 0;
};

namespace emul {
int current_device();
namespace {

struct ByNumber {  // not by address: the same seed gives the same order in every process
  bool operator()(const CUstream_st* a, const CUstream_st* b) const { return a->number < b->number; }
};
// Ranks differ in how far their streams have come.
std::uint64_t of_this_rank(std::uint64_t seed) {
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  return seed * 1000003 + (rank ? static_cast<std::uint64_t>(std::atoi(rank)) : 0);
}

struct Streams {
  std::set<CUstream_st*, ByNumber> all;
  CUstream_st null_stream;
  std::mt19937_64 rng{of_this_rank(options().seed)};
  std::uint64_t made = 0;
  unsigned steps_left = 0;
  Streams() { all.insert(&null_stream); }
};
Streams& streams() {
  static Streams* s = new Streams;
  return *s;
}

struct FnOp final : Op_ {
  std::function<void()> fn;
  bool step() override {
    fn();
    return true;
  }
};
struct WaitOp final : Op_ {
  std::shared_ptr<bool> done;
  bool step() override { return *done; }
};

std::recursive_mutex& turns() {
  static auto* m = new std::recursive_mutex;
  return *m;
}

CUstream_st* stream_of(cudaStream_t s) {
  if (s == nullptr || s == cudaStreamLegacy) return &streams().null_stream;
  for (CUstream_st* known : streams().all)
    if (known == s) return s;
  std::fprintf(stderr, "emul: unknown stream handle\n");
  std::abort();
}
void drain(CUstream_st* s) {
  const Turn turn;
  if (s->q.empty()) return;
  const DeviceAccess a;  // once for all of it
  while (!s->q.empty()) pump_once();
}
// What the default stream promises: it and streams made without cudaStreamNonBlocking keep the order of calls.
void keep_default_order(const CUstream_st* s) {
  Streams& all = streams();
  if (s == &all.null_stream) {
    for (CUstream_st* o : std::vector<CUstream_st*>(all.all.begin(), all.all.end()))
      if (!o->non_blocking && o != s) drain(o);
  } else if (!s->non_blocking) {
    drain(&all.null_stream);
  }
}

}  // namespace

Turn::Turn() { turns().lock(); }
Turn::~Turn() { turns().unlock(); }

// Streams run by priorities, which are drawn anew after 1 to 16 steps: so one is often far ahead of the others, which a
// fair draw at each step would hardly ever show, and sometimes they take turns.
bool pump_once() {
  const Turn turn;
  Streams& s = streams();
  if (s.steps_left-- == 0) {
    s.steps_left = (1u << s.rng() % 5) - 1;
    for (CUstream_st* each : s.all) each->priority = s.rng();
  }
  std::vector<CUstream_st*> waiting;
  for (CUstream_st* each : s.all)
    if (!each->q.empty() && !each->busy) waiting.push_back(each);
  if (waiting.empty()) return false;
  std::stable_sort(waiting.begin(), waiting.end(), [](const CUstream_st* a, const CUstream_st* b) {
    return a->last != b->last ? b->last : a->priority > b->priority;
  });
  for (CUstream_st* each : waiting) {
    each->busy = true;
    const bool done = each->q.front()->step();
    each->busy = false;
    if (done) {
      each->q.pop_front();
      return true;
    }
  }
  return true;  // only work that waits for other ranks
}

void enqueue(cudaStream_t handle, std::unique_ptr<Op_> op) {
  const Turn turn;
  CUstream_st* s = stream_of(handle);
  if (options().deferred) {
    keep_default_order(s);
    s->q.push_back(std::move(op));
    return;
  }
  drain(s);
  while (!op->step()) {
  }
}
void enqueue_fn(cudaStream_t s, std::function<void()> f) {
  auto o = std::make_unique<FnOp>();
  o->fn = std::move(f);
  enqueue(s, std::move(o));
}
void sync_stream(cudaStream_t s) { drain(stream_of(s)); }
void sync_device() {
  const Turn turn;
  for (CUstream_st* s : std::vector<CUstream_st*>(streams().all.begin(), streams().all.end())) drain(s);
}
void reset_error() {
  set_sticky(cudaSuccess);
  for (CUstream_st* s : streams().all) s->q.clear();
}
void run_last(cudaStream_t stream) {
  const Turn turn;
  stream_of(stream)->last = true;
}

void reseed(std::uint64_t seed) {
  streams().rng.seed(of_this_rank(seed));
  streams().steps_left = 0;
  options().seed = seed;
}

void report_bad_arg(int i, const void* p) {
  char s[128];
  std::snprintf(s, sizeof s, "kernel argument %d (%p) is not a live device or pinned pointer", i, p);
  fail(cudaErrorInvalidValue, s);
}
cudaError_t launch_erased(const LaunchDims& d, std::function<void()> body) {
  const Turn turn;
  if (sticky() != cudaSuccess) return sticky();
  const unsigned long long nt = 1ull * d.block.x * d.block.y * d.block.z;
  if (nt == 0 || nt > 1024 || d.block.z > 64 || !d.grid.x || !d.grid.y || !d.grid.z || d.grid.y > 65535 ||
      d.grid.z > 65535 || d.grid.x > 2147483647u)
    return fail(cudaErrorInvalidConfiguration, "kernel launch: bad grid or block");
  if (d.smem > 227 * 1024) return fail(cudaErrorInvalidValue, "kernel launch: dynamic shared memory over 227 KiB");
  if (const CUstream_st* s = stream_of(d.stream); s != &streams().null_stream && s->device != current_device())
    return fail(cudaErrorInvalidResourceHandle, "kernel launch: the stream is of another device than the current one");
  enqueue_fn(d.stream, [d, body = std::move(body)] {
    if (sticky() != cudaSuccess) return;
    DeviceAccess a;
    if (const cudaError_t e = run_grid(d, body); e != cudaSuccess) set_sticky(e);
  });
  return sticky();
}

namespace {

// Rows of a copy; one for cudaMemcpy.
struct Rows {
  std::size_t bytes, rows, to_pitch, from_pitch;
};
void copy_rows(void* to, const void* from, const Rows& r) {
  DeviceAccess a;
  for (std::size_t i = 0; i < r.rows; ++i)
    std::memmove(static_cast<char*>(to) + i * r.to_pitch, static_cast<const char*>(from) + i * r.from_pitch, r.bytes);
}
bool direction_fits(cudaMemcpyKind k, bool to_device, bool from_device) {
  switch (k) {
    case cudaMemcpyDefault:
      return true;
    case cudaMemcpyHostToHost:
      return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
      return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
      return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
      return to_device && from_device;
  }
  return false;
}

// What lies in pinned memory from the call until the copy has run is not defined: it is NaN, unless work given earlier
// has yet to read it.
void spoil_pinned(void* to, const Rows& r, std::size_t span) {
  if (!options().deferred || pinned_in_use(to, span)) return;
  for (std::size_t i = 0; i < r.rows; ++i) std::memset(static_cast<char*>(to) + i * r.to_pitch, 0xFF, r.bytes);
}

cudaError_t copy(void* to, const void* from, const Rows& r, cudaMemcpyKind kind, cudaStream_t stream, bool async) {
  const Turn turn;
  if (sticky() != cudaSuccess) return sticky();
  if (r.bytes == 0 || r.rows == 0) return cudaSuccess;
  if (r.rows > 1 && (r.bytes > r.to_pitch || r.bytes > r.from_pitch))
    return fail(cudaErrorInvalidPitchValue, "cudaMemcpy2D: rows overlap");
  const std::size_t to_span = (r.rows - 1) * r.to_pitch + r.bytes, from_span = (r.rows - 1) * r.from_pitch + r.bytes;
  const Where wt = classify(to, to_span), wf = classify(from, from_span);
  if (wt == Where::bad || wf == Where::bad)
    return fail(cudaErrorInvalidValue, "cudaMemcpy: range not inside one live allocation");
  if (!direction_fits(kind, wt == Where::device, wf == Where::device))
    return fail(cudaErrorInvalidMemcpyDirection, "cudaMemcpy: direction does not match the pointers");
  ++counters().copies;
  if (!async || wt == Where::host || wf == Where::host) ++counters().copies_that_wait;

  if (async && wf == Where::host && wt != Where::host) {  // a pageable source is staged before the call returns
    auto staged = std::make_shared<std::vector<char>>(r.rows * r.bytes);
    copy_rows(staged->data(), from, {r.bytes, r.rows, r.bytes, r.from_pitch});
    enqueue_fn(stream, [=] { copy_rows(to, staged->data(), {r.bytes, r.rows, r.to_pitch, r.bytes}); });
    return sticky();
  }
  if (wt == Where::pinned) spoil_pinned(to, r, to_span);
  auto uses = std::make_shared<std::vector<std::unique_ptr<PinnedUse>>>();
  if (wt == Where::pinned) uses->push_back(std::make_unique<PinnedUse>(to, to_span));
  if (wf == Where::pinned) uses->push_back(std::make_unique<PinnedUse>(from, from_span));
  enqueue_fn(stream, [=] {
    copy_rows(to, from, r);
    uses->clear();
  });
  if (!async || wt == Where::host) sync_stream(stream);  // a pageable destination: synchronous
  return sticky();
}

cudaError_t set(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  const Turn turn;
  if (sticky() != cudaSuccess) return sticky();
  if (bytes == 0) return cudaSuccess;
  const Where where = classify(to, bytes);
  if (where != Where::device && where != Where::pinned)
    return fail(cudaErrorInvalidValue, "cudaMemset: range not inside one live allocation");
  enqueue_fn(stream, [=] {
    DeviceAccess a;
    std::memset(to, value, bytes);
  });
  return sticky();
}

cudaError_t wait(std::uint64_t& counter) {
  const Turn turn;
  ++counter;
  return keep(sticky());
}

}  // namespace
}  // namespace emul

using namespace emul;
extern "C" {
cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind kind) {
  return keep(copy(to, from, {n, 1, n, n}, kind, nullptr, false));
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind kind, cudaStream_t s) {
  return keep(copy(to, from, {n, 1, n, n}, kind, s, true));
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t s) {
  return keep(copy(to, from, {width, height, to_pitch, from_pitch}, kind, s, true));
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
  return keep(copy(to, from, {width, height, to_pitch, from_pitch}, kind, nullptr, false));
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t n, cudaStream_t s) { return keep(set(to, value, n, s)); }
// Of device memory it does not wait for the end, as on a GPU.
cudaError_t cudaMemset(void* to, int value, size_t n) { return keep(set(to, value, n, nullptr)); }

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned flags, int) {
  const Turn turn;
  *s = new CUstream_st;
  (*s)->non_blocking = flags & cudaStreamNonBlocking;
  (*s)->device = current_device();
  (*s)->number = ++streams().made;
  (*s)->priority = streams().rng();
  streams().all.insert(*s);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned f) { return cudaStreamCreateWithPriority(s, f, 0); }
cudaError_t cudaStreamCreate(cudaStream_t* s) { return cudaStreamCreateWithPriority(s, 0, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  const Turn turn;
  sync_stream(s);  // a GPU goes on with the work; here it is simply done
  streams().all.erase(s);
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  sync_stream(s);
  return wait(counters().stream_waits);
}
cudaError_t cudaStreamQuery(cudaStream_t s) {
  const Turn turn;
  pump_once();
  return stream_of(s)->q.empty() ? keep(sticky()) : keep(cudaErrorNotReady);
}
cudaError_t cudaDeviceSynchronize() {
  sync_device();
  return wait(counters().device_waits);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* lo, int* hi) {
  *lo = 0;
  *hi = -5;
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void* u) {
  enqueue_fn(s, [=] { fn(u); });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned f) {
  *e = new CUevent_st;
  (*e)->timing = !(f & cudaEventDisableTiming);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  const Turn turn;
  while (!*e->last && pump_once()) {
  }
  delete e;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  const Turn turn;
  auto done = e->last = std::make_shared<bool>(false);  // each record is its own: waits keep the one they saw
  enqueue_fn(s, [=] {
    *done = true;
    if (e->last == done) e->when = std::chrono::steady_clock::now();
  });
  return keep(sticky());
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
  const Turn turn;
  auto o = std::make_unique<WaitOp>();
  o->done = e->last;
  if (!*o->done) enqueue(s, std::move(o));
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  const auto moves = [e] {
    const Turn turn;
    return !*e->last && pump_once();
  };
  while (moves()) sched_yield();  // other threads have their turns in between
  return wait(counters().event_waits);
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
  const Turn turn;
  pump_once();
  return *e->last ? keep(sticky()) : keep(cudaErrorNotReady);
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  if (!a->timing || !b->timing)
    return fail(cudaErrorInvalidResourceHandle, "cudaEventElapsedTime: event without timing");
  if (!*a->last || !*b->last) return cudaErrorNotReady;
  *ms = std::chrono::duration<float, std::milli>(b->when - a->when).count();
  return cudaSuccess;
}
}  // extern "C"
