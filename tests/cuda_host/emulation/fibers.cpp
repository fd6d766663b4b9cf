// The switch from one fiber to another, and the stacks they run on.
#include "tests/cuda_host/emulation/fibers.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

namespace emul {

thread_local constinit ThreadCtx* tl_cur = nullptr;
thread_local constinit Block* tl_b = nullptr;

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
void init_ctx(Fiber& f) {
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
void init_ctx(Fiber& f) {
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

#if defined(UPCYCLE_EMUL_TSAN)
static constexpr std::size_t kStack = 28 * 1024;  // plus guard: 32 KiB. TSan's cost grows with it
#elif defined(UPCYCLE_EMUL_ASAN) || !defined(__OPTIMIZE__)
static constexpr std::size_t kStack = 252 * 1024;
#else
static constexpr std::size_t kStack = 60 * 1024;
#endif

void map_stacks(Block& b, bool guards) {  // one slab; each stack has a guard page below it
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
void unmap_stacks(Block& b) {
  if (!b.slab) return;
#if defined(UPCYCLE_EMUL_ASAN)
  __asan_unpoison_memory_region(b.slab, b.slab_size);  // munmap does not clear ASan's shadow
#endif
  munmap(b.slab, b.slab_size);
  b.slab = nullptr;
}
void drop_tsan_fibers([[maybe_unused]] Block& b) {
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

}  // namespace emul
