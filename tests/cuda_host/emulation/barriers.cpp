// Where the threads of a block or of a warp meet, with the strict checks of who comes.
#include <algorithm>
#include <string>

#include "tests/cuda_host/emulation/fibers.h"

namespace emul {

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

}  // namespace emul
