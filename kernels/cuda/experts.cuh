#pragma once
#include <type_traits>

#include "core/check.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/cuda_limits.h"

// What the ops over (T, E) share: one warp per token, whose lane i has the experts i, i + 32, ...
namespace upcycle::cuda {

constexpr unsigned kTokenThreads = 128;
constexpr unsigned kTokenWarps = kTokenThreads / 32;

inline void check_experts(const char* op, std::int64_t E) {
  UPCYCLE_CHECK(E >= 1 && E <= kMostExperts, "{}: {} experts, the CUDA kernels take 1 to {}", op, E, kMostExperts);
}

// Calls f with the maximum number of experts per lane, as an integral_constant.
template <class F>
void with_columns(std::int64_t E, F&& f) {
  if (E <= 32) return f(std::integral_constant<int, 1>{});
  if (E <= 64) return f(std::integral_constant<int, 2>{});
  if (E <= 128) return f(std::integral_constant<int, 4>{});
  if (E <= 256) return f(std::integral_constant<int, 8>{});
  f(std::integral_constant<int, 16>{});
}

// A launch of one warp per token.
inline gpu::Launch warp_a_token(Stream& stream, std::int64_t T) {
  return {dim3(static_cast<unsigned>((T + kTokenWarps - 1) / kTokenWarps)), dim3(kTokenThreads), 0, native(stream)};
}
__device__ __forceinline__ std::int64_t token_of_warp() {
  return static_cast<std::int64_t>(blockIdx.x) * kTokenWarps + threadIdx.x / 32;
}

// Maximum over the warp; NaN is ignored.
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, o));
  return v;
}

}  // namespace upcycle::cuda
