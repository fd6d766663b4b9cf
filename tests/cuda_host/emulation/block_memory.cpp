// A block's shared memory, and copies into it.
#include <cstring>

#include "tests/cuda_host/emulation/fibers.h"

namespace emul {

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
void* arena_alloc(Block& b, std::size_t bytes, std::size_t align) {
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

}  // namespace emul
