// Portable kernel header: the only GPU header that kernel sources include.
//  - real build   : nvcc  (no UPCYCLE_GPU_EMULATED)
//  - test build   : a C++ compiler with UPCYCLE_GPU_EMULATED, which names the device side of the emulation
//                   (tests/cuda_host/emulation/device.h; kernels run on fibers)
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#if defined(UPCYCLE_GPU_EMULATED)
#include UPCYCLE_GPU_EMULATED
#else
#include <mma.h>
#include <cstdio>
#include <cstdlib>
#include <utility>

// Static shared memory: GPU_SHARED(float, tile, [32][33]);   GPU_SHARED(int, total);
#define GPU_SHARED(T, name, ...) __shared__ T name __VA_ARGS__
// Dynamic shared memory, 128-byte aligned: GPU_DYN_SHARED(float, smem);
#define GPU_DYN_SHARED(T, name)                                       \
  extern __shared__ __align__(128) unsigned char gpu_dyn_smem_raw_[]; \
  T* name = reinterpret_cast<T*>(gpu_dyn_smem_raw_)

namespace gpu {
struct Launch {
  dim3 grid{1}, block{1};
  std::size_t smem = 0;
  cudaStream_t stream = nullptr;
};
// One launch helper for both builds. No <<<>>> anywhere in the sources.
template <class... P, class... A>
inline cudaError_t launch(const Launch& l, void (*kernel)(P...), A&&... args) {
  if (l.smem > 32 * 1024) {  // the default limit is 48 KiB, including static shared memory
    cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(l.smem));
    if (e != cudaSuccess) return e;
  }
  cudaLaunchConfig_t cfg{};
  cfg.gridDim = l.grid;
  cfg.blockDim = l.block;
  cfg.dynamicSmemBytes = l.smem;
  cfg.stream = l.stream;
  return cudaLaunchKernelEx(&cfg, kernel, std::forward<A>(args)...);
}

// ---- PTX wrappers, each with an equivalent in tests/cuda_host/emulation/device.h ----
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                             const float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* smem_row) {
  const unsigned s = static_cast<unsigned>(__cvta_generic_to_shared(smem_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(s)
               : "memory");
}
// Transposes each 8 x 8 matrix: a lane gets two elements of a column.
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* smem_row) {
  const unsigned s = static_cast<unsigned>(__cvta_generic_to_shared(smem_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(s)
               : "memory");
}
__device__ __forceinline__ void cp_async16(void* smem, const void* gmem) {
  const unsigned s = static_cast<unsigned>(__cvta_generic_to_shared(smem));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(s), "l"(gmem) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
// Loads 16 bytes from global memory at once: otherwise nvcc 13 splits the load if its words are used separately.
__device__ __forceinline__ uint4 load_global16(const void* gmem) {
  uint4 v;
  asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(__cvta_generic_to_global(gmem))
               : "memory");
  return v;
}
// Stores 16 bytes to global memory at once: otherwise nvcc 13 splits the store if its words are computed.
__device__ __forceinline__ void store_global16(void* gmem, uint4 v) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(gmem)), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}
}  // namespace gpu
#endif
