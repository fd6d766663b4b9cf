// The threads of an emulated block: fibers, the block that they belong to, and how one gives way to another. Inside the
// emulation only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/gpu.cuh"
#include "tests/cuda_host/emulation/runtime_internal.h"

#if defined(UPCYCLE_EMUL_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(UPCYCLE_EMUL_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
}
#endif

namespace emul {

enum class St : std::uint8_t { ready, block, warp, done };

struct Fiber : ThreadCtx {
  void* sp = nullptr;
  char* stack_lo = nullptr;
  std::size_t stack_size = 0;
  St state = St::done;
  Op op{};
  unsigned mask = 0;
  int src = 0;
  std::uint64_t value = 0, result = 0;
  loc where;
  const void* ptrs[4]{};
  struct Cp {
    void* dst;
    const void* src;
    unsigned group;
  };
  std::vector<Cp> cps;    // cp.async in flight
  unsigned cp_group = 0;  // current, uncommitted group
#if defined(UPCYCLE_EMUL_ASAN)
  void* asan_fake = nullptr;
#endif
#if defined(UPCYCLE_EMUL_TSAN)
  void* tsan = nullptr;
  char tok[2] = {0, 0};
  unsigned phase = 0;
#endif
};

struct Block {
  std::vector<Fiber> f;
  Fiber main;
  std::vector<unsigned> ready;  // indices; fifo ring / lifo / random pick
  std::size_t head = 0, count = 0, ring = 0;
  bool strict = true;
  unsigned n = 0, alive = 0, arrived = 0;
  int pred_or = 0, pred_and = 1, pred_cnt = 0, pred_result = 0;
  std::vector<unsigned> warp_wait, warp_dead;  // lane bitsets
  std::vector<const void*> snap;               // [warp][lane][4]: pointers exchanged by the last mma/ldmatrix
  std::uint64_t rng = 1;
  const std::function<void()>* body = nullptr;
  char* slab = nullptr;
  std::size_t slab_size = 0;
  // shared memory
  char* arena = nullptr;
  std::size_t arena_size = 0, arena_used = 0, static_used = 0;
  void* dyn = nullptr;
  std::size_t dyn_bytes = 0;
  std::vector<std::pair<void*, void*>> statics;  // key -> address
  std::string error;
  bool failed = false;
  Order order = Order::forward;
#if defined(UPCYCLE_EMUL_TSAN)
  char bar_tok[2] = {0, 0};
  unsigned bar_phase = 0;
  char done_tok[2] = {0, 0};
  unsigned done_phase = 0;
#endif
  ~Block();
};
// The block that this thread of the host runs.
extern thread_local constinit Block* tl_b;
#define tl_blk (*tl_b)

inline std::uint64_t next_rng(std::uint64_t& s) {
  s += 0x9e3779b97f4a7c15ull;
  std::uint64_t z = s;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// ---- stacks and the switch between them (fibers.cpp) ------------------------------------------
void fiber_main();        // where a fiber begins (scheduler.cpp)
void init_ctx(Fiber& f);  // the next switch to it begins there
void map_stacks(Block& b, bool guards);
void unmap_stacks(Block& b);
void drop_tsan_fibers(Block& b);
extern "C" void emul_swap(void** save_sp, void* new_sp);
inline void raw_swap(Fiber& from, Fiber& to) { emul_swap(&from.sp, to.sp); }

inline void switch_to(Fiber& from, Fiber& to, bool from_dies = false) {
  tl_cur = &to;
#if defined(UPCYCLE_EMUL_ASAN)
  __sanitizer_start_switch_fiber(from_dies ? nullptr : &from.asan_fake, to.stack_lo, to.stack_size);
#endif
#if defined(UPCYCLE_EMUL_TSAN)
  __tsan_switch_to_fiber(to.tsan, 1 /* no synchronisation */);
#endif
  (void)from_dies;
  raw_swap(from, to);
#if defined(UPCYCLE_EMUL_ASAN)
  __sanitizer_finish_switch_fiber(from.asan_fake, nullptr, nullptr);
#endif
}

// ---- whose turn it is ---------------------------------------------------------------------------
inline void push_ready(Block& b, unsigned i) {
  b.f[i].state = St::ready;
  b.ready[(b.head + b.count++) & b.ring] = i;
}
inline bool pop_ready(Block& b, unsigned& out) {
  if (!b.count) return false;
  if (b.order == Order::forward) {
    out = b.ready[b.head];
    b.head = (b.head + 1) & b.ring;
  } else {
    std::size_t last = b.head + b.count - 1;
    if (b.order == Order::random) {
      std::size_t pick = b.head + ((next_rng(b.rng) >> 32) * b.count >> 32);
      std::swap(b.ready[pick & b.ring], b.ready[last & b.ring]);
    }
    out = b.ready[last & b.ring];
  }
  --b.count;
  return true;
}

// Leave the current fiber; run another. Falls back to main when nothing is runnable.
inline void yield_from(Fiber& me, bool dies = false) {
  Block& b = tl_blk;
  unsigned i;
  if (pop_ready(b, i)) {
    if (&b.f[i] == &me) {
      tl_cur = &me;
      return;
    }
    switch_to(me, b.f[i], dies);
  } else {
    switch_to(me, b.main, dies);
  }
}

void* arena_alloc(Block& b, std::size_t bytes, std::size_t align);  // of its shared memory (block_memory.cpp)

// ---- what went wrong (reports.cpp) --------------------------------------------------------------
std::string where_str(const loc& w);
std::string thread_str(const Fiber& f);
[[noreturn]] void fail_here(Fiber& me, std::string msg);  // the block ends
void describe_deadlock(Block& b);
#if defined(UPCYCLE_EMUL_TSAN)
extern "C" void AnnotateIgnoreReadsBegin(const char*, int);
extern "C" void AnnotateIgnoreWritesBegin(const char*, int);
#define EMUL_FAIL(me, msg)                         \
  do {                                             \
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);  \
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__); \
    fail_here(me, msg);                            \
  } while (0)
#else
#define EMUL_FAIL(me, msg) fail_here(me, msg)
#endif

}  // namespace emul
