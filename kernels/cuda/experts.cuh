#pragma once
#include <cmath>
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

// Encodes a score and its expert as one integer, larger for an expert that is chosen earlier: by descending score (-0
// equals 0), then by ascending index. Never 0, which means "no candidate".
__device__ __forceinline__ unsigned long long rank_of(float score, int expert) {
  const unsigned bits = __float_as_uint(score == 0 ? 0.0f : score);
  const unsigned rising = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(std::isnan(score) ? 0u : rising) << 32 |
         (0xffffffffu - static_cast<unsigned>(expert));
}

// The k best of the warp's candidates, in order; every lane may read `experts` afterwards.
template <int C>
__device__ void choose_experts(int* experts, int k, const float (&scores)[C], int E, int lane) {
  unsigned long long candidates[C];
#pragma unroll
  for (int c = 0; c < C; ++c) candidates[c] = lane + 32 * c < E ? rank_of(scores[c], lane + 32 * c) : 0;
  for (int j = 0; j < k; ++j) {
    unsigned long long best = 0;
#pragma unroll
    for (int c = 0; c < C; ++c) best = candidates[c] > best ? candidates[c] : best;
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
      const unsigned long long other = __shfl_xor_sync(kFullWarp, best, o);
      best = other > best ? other : best;
    }
#pragma unroll
    for (int c = 0; c < C; ++c)
      if (candidates[c] == best) candidates[c] = 0;
    if (lane == 0) experts[j] = static_cast<int>(0xffffffffu - static_cast<unsigned>(best));
  }
  __syncwarp();
}

}  // namespace upcycle::cuda
