#pragma once
#include <cuda_bf16.h>

#include <cstring>

#include "core/check.h"
#include "core/cuda_error.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "kernels/cuda/gpu.cuh"

// What the kernels share: 128-bit loads and stores as floats, and sums over a warp and a block in a fixed order.
namespace upcycle::cuda {

inline cudaStream_t native(Stream& stream) { return static_cast<cudaStream_t>(stream.native()); }

constexpr unsigned kFullWarp = 0xffffffffu;

// N values of T in 16 bytes, as floats. Addresses are multiples of 16 bytes.
template <class T>
struct Vector;
template <>
struct Vector<float> {
  static constexpr int N = 4;
  static __device__ __forceinline__ void load(float (&f)[4], const float* p) {
    const float4 v = *reinterpret_cast<const float4*>(p);
    f[0] = v.x, f[1] = v.y, f[2] = v.z, f[3] = v.w;
  }
  static __device__ __forceinline__ void store(float* p, const float (&f)[4]) {
    *reinterpret_cast<float4*>(p) = make_float4(f[0], f[1], f[2], f[3]);
  }
};
template <>
struct Vector<__nv_bfloat16> {
  static constexpr int N = 8;
  // Through uint4 and memcpy: a struct of __nv_bfloat162 would be loaded member by member, 32 bits at a time.
  static __device__ __forceinline__ void load(float (&f)[8], const __nv_bfloat16* p) {
    const uint4 v = *reinterpret_cast<const uint4*>(p);
    __nv_bfloat162 h[4];
    memcpy(h, &v, 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 g = __bfloat1622float2(h[i]);
      f[2 * i] = g.x, f[2 * i + 1] = g.y;
    }
  }
  static __device__ __forceinline__ void store(__nv_bfloat16* p, const float (&f)[8]) {
    __nv_bfloat162 h[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) h[i] = __floats2bfloat162_rn(f[2 * i], f[2 * i + 1]);
    uint4 v;
    memcpy(&v, h, 16);
    *reinterpret_cast<uint4*>(p) = v;
  }
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// As Vector<T>::load, but only from global memory, and never split into several loads.
template <class T, int N>
__device__ __forceinline__ void load_global(float (&f)[N], const T* p) {
  static_assert(N == Vector<T>::N);
  const uint4 bits = gpu::load_global16(p);
  T x[N];
  memcpy(x, &bits, sizeof(bits));
#pragma unroll
  for (int i = 0; i < N; ++i) f[i] = to_float(x[i]);
}

template <class T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(kFullWarp, v, o);
  return v;
}
// Sum over all threads of the block, returned on each. Threads is the block size. All threads must call it.
template <int Threads, class T>
__device__ __forceinline__ T block_sum(T v) {
  GPU_SHARED(T, part, [Threads / 32]);
  v = warp_sum(v);
  __syncthreads();  // the results of a previous call have been read
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = v;
  __syncthreads();
  v = (threadIdx.x & 31) < Threads / 32 ? part[threadIdx.x & 31] : T(0);
  return warp_sum(v);
}

// Calls f with a null pointer of the tensor's element type: float or __nv_bfloat16 (Error for others).
template <class F>
void with_type(const Tensor& t, F&& f) {
  if (t.dtype == DType::F32) return f(static_cast<float*>(nullptr));
  UPCYCLE_CHECK(t.dtype == DType::BF16, "fp32 or bf16 expected, found {}", t.describe());
  f(static_cast<__nv_bfloat16*>(nullptr));
}

// Whether rows of t may be read 16 bytes at a time.
inline bool whole_vectors(const Tensor& t) {
  const auto per = static_cast<std::int64_t>(16 / size_of(t.dtype));
  return reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0 && t.columns() % per == 0 && t.row_stride % per == 0;
}

}  // namespace upcycle::cuda
