// Fiber scheduler for emulated CUDA blocks. Never compiled with -fsanitize=thread itself:
// under TSan every emulated thread is a TSan fiber and only CUDA-level sync creates ordering.
#include "kernels/cuda/gpu.cuh"
#include "tests/cuda_host/emulation/runtime_internal.h"

#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

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

std::string& last_message() {
  static std::string s;
  return s;
}
Stats& stats() {
  static Stats s;
  return s;
}
thread_local constinit ThreadCtx* tl_cur = nullptr;

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
// Under TSan, consecutive blocks use different fiber sets, so accesses of neighbouring blocks stay
// unordered (cross-block races are seen); creating TSan fibers afresh per block costs ~0.4 ms each.
#if defined(UPCYCLE_EMUL_TSAN)
static constexpr int kSets = 3;
static char tsan_launch_tok;
#else
static constexpr int kSets = 1;
#endif
static thread_local Block tl_sets[kSets];
static thread_local constinit Block* tl_b = nullptr;
#define tl_blk (*tl_b)
static constexpr std::size_t kArena = 228 * 1024 + 64 * 1024;  // device limit plus guards
#if defined(UPCYCLE_EMUL_TSAN)
static constexpr std::size_t kStack = 28 * 1024;  // plus guard: 32 KiB. TSan's cost grows with it
#elif defined(UPCYCLE_EMUL_ASAN) || !defined(__OPTIMIZE__)
static constexpr std::size_t kStack = 252 * 1024;
#else
static constexpr std::size_t kStack = 60 * 1024;
#endif

static inline std::uint64_t next_rng(std::uint64_t& s) {
  s += 0x9e3779b97f4a7c15ull;
  std::uint64_t z = s;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// ---- context switch -------------------------------------------------------------------------
static void fiber_main();
extern "C" void emul_swap(void** save_sp, void* new_sp);
#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.globl emul_swap
.hidden emul_swap
.type emul_swap,@function
emul_swap:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size emul_swap,.-emul_swap
)");
static void init_ctx(Fiber& f) {
  // colour the stack tops so that 64K-aligned stacks do not share cache sets
  std::size_t color = (f.linear % 61) * 64;
  auto top = (reinterpret_cast<std::uintptr_t>(f.stack_lo + f.stack_size) - color) & ~std::uintptr_t(63);
  void** sp = reinterpret_cast<void**>(top);
  *--sp = nullptr;                               // fake return address of fiber_main
  *--sp = reinterpret_cast<void*>(&fiber_main);  // popped into rcx
  for (int i = 0; i < 6; ++i) *--sp = nullptr;   // rbp rbx r12..r15
  f.sp = sp;
}
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.globl emul_swap
.hidden emul_swap
.type emul_swap,%function
emul_swap:
  sub sp, sp, #176
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #176
  ret
.size emul_swap,.-emul_swap
)");
static void init_ctx(Fiber& f) {
  std::size_t color = (f.linear % 61) * 64;
  auto top = (reinterpret_cast<std::uintptr_t>(f.stack_lo + f.stack_size) - color) & ~std::uintptr_t(63);
  void** sp = reinterpret_cast<void**>(top - 176);
  for (int i = 0; i < 22; ++i) sp[i] = nullptr;
  sp[11] = reinterpret_cast<void*>(&fiber_main);  // x30
  f.sp = sp;
}
#else
#error "no context switch for this architecture"
#endif
static inline void raw_swap(Fiber& from, Fiber& to) { emul_swap(&from.sp, to.sp); }

static inline void switch_to(Fiber& from, Fiber& to, bool from_dies = false) {
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

static inline void push_ready(Block& b, unsigned i) {
  b.f[i].state = St::ready;
  b.ready[(b.head + b.count++) & b.ring] = i;
}
static inline bool pop_ready(Block& b, unsigned& out) {
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

static std::string where_str(const loc& w) {
  std::string f = w.file_name();
  if (auto p = f.rfind('/'); p != std::string::npos) f = f.substr(p + 1);
  return f + ":" + std::to_string(w.line()) + ":" + std::to_string(w.column());
}

// Leave the current fiber; run another. Falls back to main when nothing is runnable.
static inline void yield_from(Fiber& me, bool dies = false) {
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
static void fail_here(Fiber& me, std::string msg) {
  Block& b = tl_blk;
  b.failed = true;
  b.error = std::move(msg);
  switch_to(me, b.main, true);
  __builtin_unreachable();
}
static std::string thread_str(const Fiber& f) {
  char s[128];
  std::snprintf(s, sizeof s, "block (%u,%u,%u) thread (%u,%u,%u)", f.bid.x, f.bid.y, f.bid.z, f.tid.x, f.tid.y,
                f.tid.z);
  return s;
}
void device_fail(const char* what, loc where) {
  auto& me = static_cast<Fiber&>(*tl_cur);
  EMUL_FAIL(me, std::string(what) + " at " + where_str(where) + ", " + thread_str(me));
  __builtin_unreachable();
}

static void fiber_main() {
#if defined(UPCYCLE_EMUL_ASAN)
  {
    Block& b = tl_blk;
    const void* lo;
    std::size_t sz;
    __sanitizer_finish_switch_fiber(nullptr, &lo, &sz);
    if (!b.main.stack_lo) {
      b.main.stack_lo = static_cast<char*>(const_cast<void*>(lo));
      b.main.stack_size = sz;
    }
  }
#endif
  Block& b = tl_blk;
#if defined(UPCYCLE_EMUL_TSAN)
  __tsan_acquire(&tsan_launch_tok);
  __tsan_acquire(&b.done_tok[~b.done_phase & 1]);  // the set's previous block: orders reuse of its shared memory
#endif
  (*b.body)();
  auto& me = static_cast<Fiber&>(*tl_cur);
  me.state = St::done;
  --b.alive;
  b.warp_dead[me.warp] |= 1u << me.lane;
#if defined(UPCYCLE_EMUL_TSAN)
  __tsan_release(&b.done_tok[b.done_phase & 1]);
#endif
  if (b.strict) {
    if (b.arrived)
      EMUL_FAIL(me, thread_str(me) + " exited while " + std::to_string(b.arrived) +
                        " threads of its block wait at __syncthreads");
    if (b.warp_wait[me.warp])
      for (unsigned l = 0; l < 32; ++l)
        if (b.warp_wait[me.warp] >> l & 1) {
          auto& o = b.f[me.warp * 32 + l];
          if (o.mask >> me.lane & 1)
            EMUL_FAIL(me, thread_str(me) + " exited but lane " + std::to_string(l) + " waits for it at " +
                              where_str(o.where));
        }
  } else if (b.arrived && b.arrived == b.alive) {
    b.arrived = 0;
    for (unsigned i = 0; i < b.n; ++i)
      if (b.f[i].state == St::block) push_ready(b, i);
  }
  yield_from(me, true);
  std::abort();
}

// ---- block-wide barrier -----------------------------------------------------------------------
void syncthreads(int pred_op, bool pred, int* out, loc where) {
  Block& b = tl_blk;
  auto& me = static_cast<Fiber&>(*tl_cur);
  if (b.strict && b.alive != b.n)
    EMUL_FAIL(me, "__syncthreads at " + where_str(where) + " after threads of the block exited, " + thread_str(me));
  me.state = St::block;
  me.where = where;
  if (pred_op) {
    b.pred_or |= pred;
    b.pred_and &= pred;
    b.pred_cnt += pred;
  }
#if defined(UPCYCLE_EMUL_TSAN)
  const unsigned ph = b.bar_phase & 1;
  __tsan_release(&b.bar_tok[ph]);
#endif
  if (++b.arrived == b.alive) {
    if (b.strict)
      for (unsigned i = 0; i < b.n; ++i)
        if (b.f[i].where.line() != where.line() || b.f[i].where.column() != where.column())
          EMUL_FAIL(me, "divergent __syncthreads: " + thread_str(me) + " at " + where_str(where) + " but thread " +
                            std::to_string(i) + " at " + where_str(b.f[i].where));
    b.arrived = 0;
    b.pred_result = pred_op == 1 ? b.pred_or : pred_op == 2 ? b.pred_and : b.pred_cnt;
    b.pred_or = 0;
    b.pred_and = 1;
    b.pred_cnt = 0;
#if defined(UPCYCLE_EMUL_TSAN)
    ++b.bar_phase;
#endif
    for (unsigned i = 0; i < b.n; ++i) push_ready(b, i);
  }
  yield_from(me);
#if defined(UPCYCLE_EMUL_TSAN)
  __tsan_acquire(&b.bar_tok[ph]);
#endif
  if (pred_op) *out = b.pred_result;
}

// ---- warp collectives ---------------------------------------------------------------------------
static void complete_warp(Block& b, Fiber& me, unsigned base, unsigned m) {
  const Op op = me.op;
  if (op == Op::ballot) {
    unsigned bits = 0;
    for (unsigned r = m; r; r &= r - 1) {
      unsigned l = __builtin_ctz(r);
      bits |= unsigned(b.f[base + l].value & 1) << l;
    }
    for (unsigned r = m; r; r &= r - 1) b.f[base + __builtin_ctz(r)].result = bits;
  } else if (op == Op::mma) {
    // a snapshot: a fast lane may already be at its next exchange when a slow one reads this one
    for (unsigned l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i) b.snap[(base + l) * 4 + unsigned(i)] = b.f[base + l].ptrs[i];
  } else if (op == Op::shfl) {
    for (unsigned r = m; r; r &= r - 1) {
      Fiber& f = b.f[base + __builtin_ctz(r)];
      if (f.src >= 0 && f.src < 32 && (m >> f.src & 1))
        f.result = b.f[base + f.src].value;
      else
        f.result = 0xffffffffffffffffull;  // undefined in CUDA: poison
    }
  }
}
std::uint64_t warp_op(Op op, unsigned mask, std::uint64_t value, int src, loc where) {
  Block& b = tl_blk;
  auto& me = static_cast<Fiber&>(*tl_cur);
  const unsigned base = me.warp * 32, bit = 1u << me.lane;
  if (!(mask & bit))
    EMUL_FAIL(me, "warp intrinsic at " + where_str(where) + ": calling lane is not in its mask, " + thread_str(me));
  const unsigned lanes = std::min(32u, b.n - base);
  const unsigned exist = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1;
  if (b.strict) {
    if (mask & ~exist)
      EMUL_FAIL(me, "warp intrinsic at " + where_str(where) +
                        ": mask names lanes that do not exist (block size not a multiple of 32), " + thread_str(me));
    if (mask & b.warp_dead[me.warp])
      EMUL_FAIL(me, "warp intrinsic at " + where_str(where) + ": mask names exited lanes, " + thread_str(me));
  }
  const unsigned m = mask & exist & ~b.warp_dead[me.warp];
  me.op = op;
  me.mask = mask;
  me.value = value;
  me.src = src;
  me.where = where;
  me.state = St::warp;
#if defined(UPCYCLE_EMUL_TSAN)
  const bool ordering = op == Op::syncwarp;  // neither shuffles nor mma nor ldmatrix order memory
  const unsigned ph = me.phase & 1;
  if (ordering) __tsan_release(&me.tok[ph]);
#endif
  unsigned& wait = b.warp_wait[me.warp];
  wait |= bit;
  if ((wait & m) == m) {
    for (unsigned r = m; r; r &= r - 1) {
      Fiber& o = b.f[base + __builtin_ctz(r)];
      if (o.mask != mask || o.op != op || o.where.line() != where.line() || o.where.column() != where.column())
        EMUL_FAIL(me, "warp intrinsics do not match: " + thread_str(me) + " at " + where_str(where) + " but lane " +
                          std::to_string(o.lane) + " at " + where_str(o.where));
    }
    complete_warp(b, me, base, m);
    wait &= ~m;
    for (unsigned r = m; r; r &= r - 1) push_ready(b, base + __builtin_ctz(r));
  }
  yield_from(me);
#if defined(UPCYCLE_EMUL_TSAN)
  if (ordering) {
    for (unsigned r = m; r; r &= r - 1) __tsan_acquire(&b.f[base + __builtin_ctz(r)].tok[ph]);
    ++me.phase;
  }
#endif
  return me.result;
}
std::uint64_t mma_exchange(unsigned mask, const void* const (&ptrs)[4], const void* (*all)[4], loc where) {
  auto& me = static_cast<Fiber&>(*tl_cur);
  for (int i = 0; i < 4; ++i) me.ptrs[i] = ptrs[i];
  warp_op(Op::mma, mask, 0, 0, where);
  Block& b = tl_blk;
  for (unsigned l = 0; l < 32; ++l)
    for (int i = 0; i < 4; ++i) all[l][i] = b.snap[(me.warp * 32 + l) * 4 + unsigned(i)];
  return 0;
}

// ---- cp.async: performed at the wait, destination poisoned meanwhile ------------------------------
// The 16-byte accesses are done by an instrumented helper, so that ASan and TSan see them.
void cp16(void* d, const void* s);  // device_instr.cpp
void poison16(void* d);
void cp_async_issue(void* dst, const void* src, loc where) {
  if (reinterpret_cast<std::uintptr_t>(dst) % 16 || reinterpret_cast<std::uintptr_t>(src) % 16)
    device_fail("cp.async address not 16-byte aligned", where);
  auto& me = static_cast<Fiber&>(*tl_cur);
  poison16(dst);
  me.cps.push_back({dst, src, me.cp_group});
}
void cp_async_commit_group() { ++static_cast<Fiber&>(*tl_cur).cp_group; }
void cp_async_wait_group(int allowed) {
  auto& me = static_cast<Fiber&>(*tl_cur);
  // groups 0..cp_group-1 are committed; all but the latest `allowed` of them must be complete
  std::size_t keep = 0;
  for (auto& c : me.cps) {
    if (c.group < me.cp_group && c.group + unsigned(allowed) < me.cp_group)
      cp16(c.dst, c.src);
    else
      me.cps[keep++] = c;
  }
  me.cps.resize(keep);
}

// ---- shared memory ----------------------------------------------------------------------------
// NaN / -1: uninitialised reads show up. Under TSan not by memset, which it would see as a write of the first thread's.
static void spoil(void* p, std::size_t bytes) {
#if defined(UPCYCLE_EMUL_TSAN)
  auto* at = static_cast<volatile unsigned char*>(p);
  for (std::size_t i = 0; i < bytes; ++i) at[i] = 0xFF;
#else
  std::memset(p, 0xFF, bytes);
#endif
}
static void* arena_alloc(Block& b, std::size_t bytes, std::size_t align) {
  constexpr std::size_t guard = 64;
  std::size_t at = (b.arena_used + guard + align - 1) / align * align;
  void* p = b.arena + at;
#if defined(UPCYCLE_EMUL_ASAN)
  __asan_unpoison_memory_region(p, bytes);
#endif
  spoil(p, bytes);
  b.arena_used = at + bytes;
  return p;
}
void* static_shared(void* key, std::size_t bytes, std::size_t align) {
  Block& b = tl_blk;
  for (auto& [k, p] : b.statics)
    if (k == key) return p;
  b.static_used = (b.static_used + align - 1) / align * align + bytes;
  if (b.static_used > 48 * 1024) device_fail("more than 48 KiB of static shared memory", loc::current());
  if (b.static_used + b.dyn_bytes > 227 * 1024) device_fail("more than 227 KiB of shared memory", loc::current());
  void* p = arena_alloc(b, bytes, align);
  b.statics.emplace_back(key, p);
  return p;
}
void* dyn_shared(loc where) {
  if (!tl_blk.dyn_bytes) device_fail("dynamic shared memory used, but launched with 0 bytes", where);
  return tl_blk.dyn;
}

// ---- running blocks -----------------------------------------------------------------------------
static void map_stacks(Block& b, bool guards) {  // one slab; each stack has a guard page below it
  if (b.slab) return;
  const std::size_t each = kStack + 4096;
  b.slab_size = each * b.f.size();
  b.slab = static_cast<char*>(
      mmap(nullptr, b.slab_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (b.slab == MAP_FAILED) {
    std::perror("emul: mmap stacks");
    std::abort();
  }
  for (std::size_t i = 0; i < b.f.size(); ++i) {
    if (guards) mprotect(b.slab + i * each, 4096, PROT_NONE);
    b.f[i].stack_lo = b.slab + i * each + 4096;
    b.f[i].stack_size = kStack;
  }
}
static void unmap_stacks(Block& b) {
  if (!b.slab) return;
#if defined(UPCYCLE_EMUL_ASAN)
  __asan_unpoison_memory_region(b.slab, b.slab_size);  // munmap does not clear ASan's shadow
#endif
  munmap(b.slab, b.slab_size);
  b.slab = nullptr;
}
static void drop_tsan_fibers([[maybe_unused]] Block& b) {
#if defined(UPCYCLE_EMUL_TSAN)
  for (auto& f : b.f)
    if (f.tsan) {
      __tsan_destroy_fiber(f.tsan);
      f.tsan = nullptr;
    }
#endif
}
Block::~Block() {
  unmap_stacks(*this);
  drop_tsan_fibers(*this);
#if defined(UPCYCLE_EMUL_ASAN)
  if (arena) __asan_unpoison_memory_region(arena, arena_size);
#endif
  if (arena) munmap(arena, arena_size);
}

static void describe_deadlock(Block& b) {
  std::map<std::string, std::vector<unsigned>> groups;
  for (unsigned i = 0; i < b.n; ++i) {
    auto& f = b.f[i];
    std::string k = f.state == St::done    ? "exited"
                    : f.state == St::block ? "at __syncthreads " + where_str(f.where)
                                           : "at a warp intrinsic " + where_str(f.where);
    groups[k].push_back(i);
  }
  b.error = "deadlock in " + thread_str(b.f[0]).substr(0, thread_str(b.f[0]).find(" thread")) + ":";
  for (auto& [k, v] : groups)
    b.error += " " + std::to_string(v.size()) + " threads (first " + std::to_string(v[0]) + ") " + k + ";";
  b.failed = true;
}

static bool run_block(const LaunchDims& d, uint3 bid, const std::function<void()>& body, std::uint64_t seed) {
  static thread_local unsigned turn = 0;
  tl_b = &tl_sets[turn++ % kSets];
  Block& b = tl_blk;
  const unsigned n = d.block.x * d.block.y * d.block.z, warps = (n + 31) / 32;
  if (b.f.size() < n) {
    unmap_stacks(b);
    drop_tsan_fibers(b);
    b.f = std::vector<Fiber>(std::max<std::size_t>(n, 256));
  }
  map_stacks(b, true);
#if defined(UPCYCLE_EMUL_TSAN)
  if (b.failed) drop_tsan_fibers(b);
#endif
  if (!b.arena) {
    b.arena_size = kArena;
    b.arena = static_cast<char*>(
        mmap(nullptr, kArena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
#if defined(UPCYCLE_EMUL_ASAN)
  __asan_poison_memory_region(b.arena, b.arena_size);
  if (b.failed)
    for (auto& f : b.f) __asan_unpoison_memory_region(f.stack_lo, f.stack_size);
#endif
  b.n = n;
  b.alive = n;
  b.arrived = 0;
  b.body = &body;
  b.failed = false;
  b.error.clear();
  b.pred_or = 0;
  b.pred_and = 1;
  b.pred_cnt = 0;
  b.statics.clear();
  b.arena_used = 0;
  b.static_used = 0;
  b.dyn = nullptr;
  b.dyn_bytes = d.smem;
  if (d.smem) b.dyn = arena_alloc(b, d.smem, 128);
  b.warp_wait.assign(warps, 0);
  b.warp_dead.assign(warps, 0);
  b.snap.resize(std::size_t(warps) * 128);
  b.ring = std::bit_ceil(n) - 1;
  b.ready.resize(b.ring + 1);
  b.strict = options().strict;
  b.head = b.count = 0;
  b.order = options().order;
  b.rng = seed;
#if defined(UPCYCLE_EMUL_TSAN)
  b.main.tsan = __tsan_get_current_fiber();
#endif
  for (unsigned i = 0; i < n; ++i) {
    Fiber& f = b.f[i];
    f.linear = i;
    f.lane = i % 32;
    f.warp = i / 32;
    f.tid = {i % d.block.x, i / d.block.x % d.block.y, i / (d.block.x * d.block.y)};
    f.cps.clear();
    f.cp_group = 0;
    f.bid = bid;
    f.bdim = d.block;
    f.gdim = d.grid;
#if defined(UPCYCLE_EMUL_TSAN)
    if (!f.tsan) f.tsan = __tsan_create_fiber(0);
    f.phase = 0;
#endif
    init_ctx(f);
    push_ready(b, i);
  }
  ThreadCtx* saved = tl_cur;
  unsigned i = 0;
  pop_ready(b, i);
  switch_to(b.main, b.f[i]);
  if (!b.failed && b.alive) describe_deadlock(b);
  tl_cur = saved;
#if defined(UPCYCLE_EMUL_TSAN)
  ++b.done_phase;
#endif
  ++stats().blocks;
  return !b.failed;
}

cudaError_t run_grid(const LaunchDims& d, const std::function<void()>& body) {
  const std::uint64_t nb = std::uint64_t(d.grid.x) * d.grid.y * d.grid.z;
  static std::atomic<std::uint64_t> launch_no{0};
  const std::uint64_t seed = options().seed * 1000003 + launch_no++;
  ++stats().launches;
  std::vector<std::uint64_t> perm;
  if (options().order != Order::forward) {
    perm.resize(nb);
    for (std::uint64_t i = 0; i < nb; ++i) perm[i] = nb - 1 - i;
    if (options().order == Order::random) {
      std::uint64_t s = seed;
      for (std::uint64_t i = nb; i > 1; --i) std::swap(perm[i - 1], perm[next_rng(s) % i]);
    }
  }
  std::atomic<std::uint64_t> next{0};
  std::atomic<bool> ok{true};
  std::mutex mu;
  auto worker = [&] {
    for (std::uint64_t i; ok && (i = next++) < nb;) {
      const std::uint64_t k = perm.empty() ? i : perm[i];
      uint3 bid{unsigned(k % d.grid.x), unsigned(k / d.grid.x % d.grid.y),
                unsigned(k / (std::uint64_t(d.grid.x) * d.grid.y))};
      if (!run_block(d, bid, body, seed ^ (k * 0x9e37u))) {
        std::lock_guard g(mu);
        if (ok.exchange(false)) last_message() = tl_blk.error;
      }
    }
  };
#if defined(UPCYCLE_EMUL_TSAN)
  __tsan_release(&tsan_launch_tok);
#endif
  const int nt = options().os_threads;
  if (nt <= 1 || nb == 1) {
    worker();
  } else {
    std::vector<std::thread> ts;
    for (int t = 1; t < nt; ++t) ts.emplace_back(worker);
    worker();
    for (auto& t : ts) t.join();
  }
#if defined(UPCYCLE_EMUL_TSAN)
  for (auto& b : tl_sets) {
    __tsan_acquire(&b.done_tok[0]);
    __tsan_acquire(&b.done_tok[1]);
  }
#endif
  if (!ok) {
    if (!options().quiet) std::fprintf(stderr, "emul: kernel failed: %s\n", last_message().c_str());
    if (options().abort_on_error) std::abort();
    return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}
}  // namespace emul
