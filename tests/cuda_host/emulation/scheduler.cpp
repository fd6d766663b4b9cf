// Runs the blocks of a grid, each thread of a block as a fiber. Never compiled with -fsanitize=thread itself: under
// TSan every emulated thread is a TSan fiber and only CUDA-level sync creates ordering.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/cuda_host/emulation/fibers.h"

namespace emul {

Stats& stats() {
  static Stats s;
  return s;
}
// Under TSan, consecutive blocks use different fiber sets, so accesses of neighbouring blocks stay
// unordered (cross-block races are seen); creating TSan fibers afresh per block costs ~0.4 ms each.
#if defined(UPCYCLE_EMUL_TSAN)
static constexpr int kSets = 3;
static char tsan_launch_tok;
#else
static constexpr int kSets = 1;
#endif
static thread_local Block tl_sets[kSets];
static constexpr std::size_t kArena = 228 * 1024 + 64 * 1024;  // device limit plus guards

void fiber_main() {
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
