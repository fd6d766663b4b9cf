// CUDA-on-CPU emulation, device side. Test builds only. Include through kernels/cuda/gpu.cuh.
#pragma once
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <tuple>
#include <type_traits>
#include <utility>

#if defined(__SANITIZE_THREAD__)
#define EMUL_NO_TSAN __attribute__((no_sanitize("thread")))
#else
#define EMUL_NO_TSAN
#endif

#undef __shared__
#define __shared__ EMUL_ERROR_use_GPU_SHARED_instead_of_shared
#ifndef __launch_bounds__
#define __launch_bounds__(...)
#endif

namespace emul {
#if defined(__cpp_lib_source_location)
using loc = std::source_location;
#else  // clang 14 with libstdc++ 12
struct loc {
  const char* f;
  unsigned l, c;
  static constexpr loc current(const char* f = __builtin_FILE(), unsigned l = __builtin_LINE(),
                               unsigned c = __builtin_COLUMN()) {
    return {f, l, c};
  }
  constexpr loc(const char* f = "", unsigned l = 0, unsigned c = 0) : f(f), l(l), c(c) {}
  constexpr const char* file_name() const { return f; }
  constexpr unsigned line() const { return l; }
  constexpr unsigned column() const { return c; }
};
#endif

enum class Op : std::uint8_t { shfl, ballot, syncwarp, reduce_add, mma };

struct Fiber;
struct ThreadCtx {  // what kernel code reads; first member of a Fiber
  uint3 tid, bid;
  dim3 bdim, gdim;
  unsigned linear, lane, warp;
};
// Pointer to the running emulated thread. constinit: no TLS init wrapper on access.
extern thread_local constinit ThreadCtx* tl_cur;

void syncthreads(int pred_op, bool pred, int* out, loc where);
// Warp collective. value/src per lane; returns this lane's result.
std::uint64_t warp_op(Op op, unsigned mask, std::uint64_t value, int src, loc where);
void* static_shared(void* key, std::size_t bytes, std::size_t align);  // same pointer per block+key
void* dyn_shared(loc where);
std::uint64_t mma_exchange(unsigned mask, const void* const (&ptrs)[4], const void* (*all)[4], loc where);
[[noreturn]] void device_fail(const char* what, loc where);

struct LaunchDims {
  dim3 grid, block;
  std::size_t smem;
  cudaStream_t stream;
  const char* name;
};
cudaError_t launch_erased(const LaunchDims&, std::function<void()> body);
bool check_device_pointer(const void* p);  // inside a live device/pinned/managed allocation?
void report_bad_arg(int index, const void* p);

template <class T>
inline std::uint64_t pack(T v) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t u = 0;
  __builtin_memcpy(&u, &v, sizeof(T));
  return u;
}
template <class T>
inline T unpack(std::uint64_t u) {
  T v;
  __builtin_memcpy(&v, &u, sizeof(T));
  return v;
}
}  // namespace emul

#define GPU_SHARED(T, name, ...) \
  static char name##_emul_key_;  \
  auto& name = ::emul::shared_ref<T __VA_ARGS__>(&name##_emul_key_)
#define GPU_DYN_SHARED(T, name) T* name = static_cast<T*>(::emul::dyn_shared(::emul::loc::current()))
namespace emul {
template <class A>
inline A& shared_ref(void* key) {
  return *static_cast<A*>(static_shared(key, sizeof(A), alignof(A) < 16 ? 16 : alignof(A)));
}
}  // namespace emul

// ---- built-in variables -------------------------------------------------------------------
#define threadIdx (::emul::tl_cur->tid)
#define blockIdx (::emul::tl_cur->bid)
#define blockDim (::emul::tl_cur->bdim)
#define gridDim (::emul::tl_cur->gdim)
inline constexpr int warpSize = 32;

// ---- synchronisation ----------------------------------------------------------------------
inline void __syncthreads(emul::loc w = emul::loc::current()) { emul::syncthreads(0, false, nullptr, w); }
inline int __syncthreads_or(int p, emul::loc w = emul::loc::current()) {
  int r;
  emul::syncthreads(1, p, &r, w);
  return r;
}
inline int __syncthreads_and(int p, emul::loc w = emul::loc::current()) {
  int r;
  emul::syncthreads(2, p, &r, w);
  return r;
}
inline int __syncthreads_count(int p, emul::loc w = emul::loc::current()) {
  int r;
  emul::syncthreads(3, p, &r, w);
  return r;
}
inline void __syncwarp(unsigned m = 0xffffffffu, emul::loc w = emul::loc::current()) {
  emul::warp_op(emul::Op::syncwarp, m, 0, 0, w);
}
namespace emul {
inline void meet(loc w) { warp_op(Op::ballot, 0xffffffffu, 0, 0, w); }  // a warp's lanes, without ordering memory
}  // namespace emul
inline void __threadfence() {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  __sync_synchronize();
}
inline void __threadfence_block() { __threadfence(); }

// ---- warp intrinsics ----------------------------------------------------------------------
template <class T>
inline T __shfl_sync(unsigned m, T v, int src, int width = 32, emul::loc w = emul::loc::current()) {
  const int lane = int(emul::tl_cur->lane), base = lane & ~(width - 1);
  return emul::unpack<T>(emul::warp_op(emul::Op::shfl, m, emul::pack(v), base + (src & (width - 1)), w));
}
template <class T>
inline T __shfl_xor_sync(unsigned m, T v, int x, int width = 32, emul::loc w = emul::loc::current()) {
  const int lane = int(emul::tl_cur->lane), end = (lane & ~(width - 1)) + width;
  const int s = lane ^ x;
  return emul::unpack<T>(emul::warp_op(emul::Op::shfl, m, emul::pack(v), s < end ? s : lane, w));
}
template <class T>
inline T __shfl_down_sync(unsigned m, T v, unsigned d, int width = 32, emul::loc w = emul::loc::current()) {
  const int lane = int(emul::tl_cur->lane), end = (lane & ~(width - 1)) + width;
  const int s = lane + int(d);
  return emul::unpack<T>(emul::warp_op(emul::Op::shfl, m, emul::pack(v), s < end ? s : lane, w));
}
template <class T>
inline T __shfl_up_sync(unsigned m, T v, unsigned d, int width = 32, emul::loc w = emul::loc::current()) {
  const int lane = int(emul::tl_cur->lane), base = lane & ~(width - 1);
  const int s = lane - int(d);
  return emul::unpack<T>(emul::warp_op(emul::Op::shfl, m, emul::pack(v), s >= base ? s : lane, w));
}
inline unsigned __ballot_sync(unsigned m, int p, emul::loc w = emul::loc::current()) {
  return unsigned(emul::warp_op(emul::Op::ballot, m, p != 0, 0, w));
}
inline int __any_sync(unsigned m, int p, emul::loc w = emul::loc::current()) { return __ballot_sync(m, p, w) != 0; }
inline int __all_sync(unsigned m, int p, emul::loc w = emul::loc::current()) { return __ballot_sync(m, p, w) == m; }

// ---- bit / math intrinsics ------------------------------------------------------------------
using std::isfinite;
using std::isinf;
using std::isnan;
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(unsigned x) { return std::countl_zero(x); }
inline int __ffs(unsigned x) { return x ? std::countr_zero(x) + 1 : 0; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline int __float_as_int(float f) { return std::bit_cast<int>(f); }
inline float __int_as_float(int i) { return std::bit_cast<float>(i); }
inline unsigned __float_as_uint(float f) { return std::bit_cast<unsigned>(f); }
inline float __uint_as_float(unsigned i) { return std::bit_cast<float>(i); }
template <class T>
inline T __ldg(const T* p) {
  return *p;
}
// CUDA's global min/max
template <class T>
inline constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
inline constexpr T max(T a, T b) {
  return a < b ? b : a;
}

// ---- atomics (relaxed, device scope) ----------------------------------------------------------
template <class T>
requires std::is_integral_v<T>
inline T atomicAdd(T* p, std::type_identity_t<T> v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
template <class T>
requires std::is_floating_point_v<T>
inline T atomicAdd(T* p, std::type_identity_t<T> v) {
  return std::atomic_ref<T>(*p).fetch_add(v, std::memory_order_relaxed);
}
template <class T>
inline T atomicMax(T* p, std::type_identity_t<T> v) {
  T o = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (o < v && !__atomic_compare_exchange_n(p, &o, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return o;
}
template <class T>
inline T atomicCAS(T* p, std::type_identity_t<T> c, std::type_identity_t<T> v) {
  __atomic_compare_exchange_n(p, &c, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return c;
}
template <class T>
inline T atomicExch(T* p, std::type_identity_t<T> v) {
  return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}

// ---- nvcuda::wmma 16x16x16, bf16 inputs, f32 accumulator ---------------------------------------
// The lane->element mapping is unspecified in CUDA; here lane l owns elements l*8..l*8+7 (row-major).
namespace nvcuda::wmma {
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };
template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
  static_assert(M == 16 && N == 16 && K == 16);
  static constexpr int num_elements = 8;
  T x[8];
};
template <class F, class T>
inline void fill_fragment(F& f, T v) {
  for (auto& e : f.x) e = v;
}
namespace detail {
template <class L>
constexpr bool is_col = std::is_same_v<L, col_major>;
inline int row(int i) { return int(emul::tl_cur->lane * 8 + i) / 16; }
inline int col(int i) { return int(emul::tl_cur->lane * 8 + i) % 16; }
inline void align_check(const void* p, unsigned ldm, std::size_t es, emul::loc w) {
  if (reinterpret_cast<std::uintptr_t>(p) % 32) emul::device_fail("wmma pointer not 32-byte aligned", w);
  if (ldm * es % 16) emul::device_fail("wmma leading dimension not a multiple of 16 bytes", w);
}
}  // namespace detail
template <class Use, class T, class L>
inline void load_matrix_sync(fragment<Use, 16, 16, 16, T, L>& f, const T* p, unsigned ldm,
                             emul::loc w = emul::loc::current()) {
  detail::align_check(p, ldm, sizeof(T), w);
  __syncwarp(0xffffffffu, w);
  for (int i = 0; i < 8; ++i)
    f.x[i] = detail::is_col<L> ? p[detail::col(i) * ldm + detail::row(i)] : p[detail::row(i) * ldm + detail::col(i)];
}
template <class T>
inline void load_matrix_sync(fragment<accumulator, 16, 16, 16, T>& f, const T* p, unsigned ldm, layout_t lay,
                             emul::loc w = emul::loc::current()) {
  detail::align_check(p, ldm, sizeof(T), w);
  __syncwarp(0xffffffffu, w);
  for (int i = 0; i < 8; ++i)
    f.x[i] = lay == mem_col_major ? p[detail::col(i) * ldm + detail::row(i)] : p[detail::row(i) * ldm + detail::col(i)];
}
template <class T>
inline void store_matrix_sync(T* p, const fragment<accumulator, 16, 16, 16, T>& f, unsigned ldm, layout_t lay,
                              emul::loc w = emul::loc::current()) {
  detail::align_check(p, ldm, sizeof(T), w);
  __syncwarp(0xffffffffu, w);
  for (int i = 0; i < 8; ++i)
    (lay == mem_col_major ? p[detail::col(i) * ldm + detail::row(i)] : p[detail::row(i) * ldm + detail::col(i)]) =
        f.x[i];
}
template <class LA, class LB>
EMUL_NO_TSAN inline void mma_sync(fragment<accumulator, 16, 16, 16, float>& d,
                                  const fragment<matrix_a, 16, 16, 16, __nv_bfloat16, LA>& a,
                                  const fragment<matrix_b, 16, 16, 16, __nv_bfloat16, LB>& b,
                                  const fragment<accumulator, 16, 16, 16, float>& c,
                                  emul::loc w = emul::loc::current()) {
  const void* all[32][4];
  emul::mma_exchange(0xffffffffu, {a.x, b.x, nullptr, nullptr}, all, w);
  const int r = detail::row(0), c0 = detail::col(0);
  float acc[8];
  for (int i = 0; i < 8; ++i) acc[i] = c.x[i];
  for (int k = 0; k < 16; ++k) {
    const float av = __bfloat162float(static_cast<const __nv_bfloat16*>(all[(r * 16 + k) / 8][0])[k % 8]);
    const __nv_bfloat16* br = static_cast<const __nv_bfloat16*>(all[(k * 16 + c0) / 8][1]);
    for (int i = 0; i < 8; ++i) acc[i] += av * __bfloat162float(br[i]);
  }
  emul::meet(w);  // others may still read our fragments
  for (int i = 0; i < 8; ++i) d.x[i] = acc[i];
}
}  // namespace nvcuda::wmma

// ---- PTX wrappers ---------------------------------------------------------------------------
namespace emul {
void cp_async_issue(void* dst, const void* src, loc where);  // the copy happens at the wait, as late as allowed
void cp_async_commit_group();
void cp_async_wait_group(int allowed);
}  // namespace emul
namespace gpu {
EMUL_NO_TSAN inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                      const float (&c)[4], emul::loc w = emul::loc::current()) {
  const void* all[32][4];
  emul::mma_exchange(0xffffffffu, {a, b, nullptr, nullptr}, all, w);
  const unsigned g = emul::tl_cur->lane >> 2, t = emul::tl_cur->lane & 3;
  auto half = [](unsigned r, unsigned i) { return std::bit_cast<float>(i ? r & 0xffff0000u : r << 16); };
  float o[4];
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = g + (i >> 1) * 8, col = t * 2 + (i & 1);
    float s = c[i];
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned ra = static_cast<const unsigned*>(all[(row & 7) * 4 + (k & 7) / 2][0])[(row >> 3) + 2 * (k >> 3)];
      const unsigned rb = static_cast<const unsigned*>(all[col * 4 + (k & 7) / 2][1])[k >> 3];
      s += half(ra, k & 1) * half(rb, k & 1);
    }
    o[i] = s;
  }
  emul::meet(w);  // others may still read our registers
  for (int i = 0; i < 4; ++i) d[i] = o[i];
}
inline void ldmatrix_x4(unsigned (&r)[4], const void* row, emul::loc w = emul::loc::current()) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16) emul::device_fail("ldmatrix row address not 16-byte aligned", w);
  const void* all[32][4];
  emul::mma_exchange(0xffffffffu, {row, nullptr, nullptr, nullptr}, all, w);
  const unsigned g = emul::tl_cur->lane >> 2, t = emul::tl_cur->lane & 3;
  for (unsigned i = 0; i < 4; ++i) r[i] = static_cast<const unsigned*>(all[i * 8 + g][0])[t];
}
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row, emul::loc w = emul::loc::current()) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16) emul::device_fail("ldmatrix row address not 16-byte aligned", w);
  const void* all[32][4];
  emul::mma_exchange(0xffffffffu, {row, nullptr, nullptr, nullptr}, all, w);
  const unsigned g = emul::tl_cur->lane >> 2, t = emul::tl_cur->lane & 3;
  for (unsigned i = 0; i < 4; ++i) {
    const auto at = [&](unsigned k) { return static_cast<const std::uint16_t*>(all[i * 8 + k][0])[g]; };
    r[i] = at(2 * t) | static_cast<unsigned>(at(2 * t + 1)) << 16;
  }
}
inline void cp_async16(void* smem, const void* gmem, emul::loc w = emul::loc::current()) {
  emul::cp_async_issue(smem, gmem, w);
}
inline uint4 load_global16(const void* gmem) { return *static_cast<const uint4*>(gmem); }
inline void store_global16(void* gmem, uint4 v) { *static_cast<uint4*>(gmem) = v; }
inline void cp_async_commit() { emul::cp_async_commit_group(); }
template <int N>
inline void cp_async_wait() {
  emul::cp_async_wait_group(N);
}
}  // namespace gpu

// ---- launch --------------------------------------------------------------------------------
namespace gpu {
struct Launch {
  dim3 grid{1}, block{1};
  std::size_t smem = 0;
  cudaStream_t stream = nullptr;
};
template <class... P, class... A>
inline cudaError_t launch(const Launch& l, void (*kernel)(P...), A&&... args) {
  static_assert(sizeof...(P) == sizeof...(A));
  static_assert((std::is_trivially_copyable_v<P> && ...), "kernel parameters must be trivially copyable");
  std::tuple<P...> params(std::forward<A>(args)...);  // by-value copy at launch, as CUDA does
  int idx = 0;
  auto check = [&](auto const& p) {
    if constexpr (std::is_pointer_v<std::decay_t<decltype(p)>>)
      if (p && !emul::check_device_pointer(reinterpret_cast<const void*>(p))) {
        emul::report_bad_arg(idx, p);
        return false;
      }
    ++idx;
    return true;
  };
  if (!std::apply([&](auto const&... p) { return (check(p) && ...); }, params)) return cudaErrorInvalidValue;
  return emul::launch_erased({l.grid, l.block, l.smem, l.stream, "kernel"},
                             [kernel, params] { std::apply(kernel, params); });
}
}  // namespace gpu
