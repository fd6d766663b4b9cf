#pragma once
#include "kernels/cuda/gpu.cuh"

// Kernels with one mistake each, of 256 threads: out and in have room for 512 floats, of in the first 256 are set.
namespace upcycle::planted {

constexpr unsigned kWarp = 0xffffffffu;
using Kernel = void (*)(float* out, const float* in);

__global__ inline void correct(float* out, const float* in) {
  GPU_SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[(threadIdx.x + 64) & 255];
}
__global__ inline void missing_sync(float* out, const float* in) {
  GPU_SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = s[(threadIdx.x + 64) & 255];
}
// The second round overwrites what slow threads still read in the first.
__global__ inline void missing_sync_before_reuse(float* out, const float* in) {
  GPU_SHARED(float, s, [256]);
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    s[threadIdx.x] = in[threadIdx.x] + static_cast<float>(round);
    __syncthreads();
    sum += s[(threadIdx.x + 64) & 255];
  }
  out[threadIdx.x] = sum;
}
__global__ inline void missing_syncwarp(float* out, const float* in) {
  GPU_SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  const float x = __shfl_xor_sync(kWarp, in[threadIdx.x], 1);  // a shuffle does not order memory
  out[threadIdx.x] = s[threadIdx.x ^ 1] + 0 * x;
}
__global__ inline void shared_out_of_bounds(float* out, const float* in) {
  GPU_SHARED(float, s, [256]);
  s[threadIdx.x + 1] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}
__global__ inline void shared_row_out_of_bounds(float* out, const float* in) {
  GPU_SHARED(float, s, [16][16]);
  const int t = static_cast<int>(threadIdx.x);
  s[t / 16][t % 16] = in[t];
  __syncthreads();
  out[t] = s[t / 16 > 14 ? 14 : t / 16][t % 16 + (t == 5 ? 16 : 0)];  // inside the array, outside its row
}
__global__ inline void global_out_of_bounds(float* out, const float* in) {
  out[threadIdx.x] = in[threadIdx.x + (threadIdx.x == 255 ? 257 : 0)];
}
__global__ inline void divergent_barrier(float* out, const float* in) {
  if (threadIdx.x < 128)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = in[threadIdx.x];
}
__global__ inline void mask_of_absent_lanes(float* out, const float* in) {
  float v = in[threadIdx.x];
  if ((threadIdx.x & 31) < 20) v += __shfl_xor_sync(kWarp, v, 1);
  out[threadIdx.x] = v;
}
__global__ inline void barrier_after_exit(float* out, const float* in) {
  if (threadIdx.x >= 200) return;
  out[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
}
__global__ inline void uninitialised_shared(float* out, const float* in) {
  GPU_SHARED(float, s, [256]);
  if (threadIdx.x < 255) s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}
__global__ inline void plain_add_to_global(float* out, const float* in) {
  out[threadIdx.x & 7] = out[threadIdx.x & 7] + in[threadIdx.x];
}
__global__ inline void misaligned_vector(float* out, const float* in) {
  out[threadIdx.x] = threadIdx.x < 32 ? reinterpret_cast<const float4*>(in + threadIdx.x * 4 + 1)->x : 0.f;
}
// No data race, but what lies where depends on the order of threads.
__global__ inline void order_of_atomics(float* out, const float* in) {
  GPU_SHARED(int, next);
  if (threadIdx.x == 0) next = 0;
  __syncthreads();
  out[atomicAdd(&next, 1)] = in[threadIdx.x];
}
// Of two blocks: one reads what the other writes.
__global__ inline void block_reads_block(float* out, const float* in) {
  if (blockIdx.x == 0)
    out[threadIdx.x] = in[threadIdx.x];
  else
    out[256 + threadIdx.x] = out[threadIdx.x];
}

template <bool Commit, bool Wait, bool Sync>
__global__ void async_copy(float* out, const float* in) {
  GPU_SHARED(float, s, [256]);
  if (threadIdx.x < 64) gpu::cp_async16(s + 4 * threadIdx.x, in + 4 * threadIdx.x);
  if (Commit) gpu::cp_async_commit();
  if (Wait) gpu::cp_async_wait<0>();
  if (Sync) __syncthreads();
  out[threadIdx.x] = s[(threadIdx.x + 64) & 255];
}

}  // namespace upcycle::planted
