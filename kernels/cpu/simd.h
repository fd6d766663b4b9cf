#pragma once
#include <bit>
#include <cstdint>

#include "core/dtype.h"

// Scalar helpers that GCC vectorises under `#pragma omp simd`: branch-free, no library calls.
namespace upcycle {

inline float load(const float* p) { return *p; }
inline float load(const bf16* p) { return std::bit_cast<float>(static_cast<std::uint32_t>(p->bits) << 16); }

inline void store(float* p, float x) { *p = x; }
// Same bits as to_bf16, with selects instead of its branch.
inline void store(bf16* p, float x) {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const std::uint32_t nan = (u >> 16) | 0x40u;
  p->bits = static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

// e^x to about 1 ulp. Results below 2^-126 are 0 (no denormals), above the largest float infinity; NaN stays NaN.
// x = n ln2 + r with |r| <= ln2 / 2; ln2 in two parts (Cody and Waite) keeps r exact, a degree-6 polynomial gives e^r.
inline float fast_exp(float x) {
  constexpr float kHighest = 88.72283935546875f;  // ln of the largest float
  constexpr float kLowest = -87.33654022216797f;  // ln of 2^-126
  float clamped = x > kHighest ? kHighest : x;
  clamped = clamped < kLowest ? kLowest : clamped;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float shifted = clamped * 1.44269504088896341f + kRound;
  const float n = shifted - kRound;
  float r = n * -0.693359375f + clamped;
  r = n * 2.12194440054690583e-4f + r;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  // 2^n in two factors: 2^128 is not a float.
  const std::int32_t i = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(kRound);
  const std::int32_t half = i >> 1;
  float y = p * std::bit_cast<float>((half + 127) << 23) * std::bit_cast<float>((i - half + 127) << 23);
  y = x > kHighest ? __builtin_inff() : y;
  y = x < kLowest ? 0.0f : y;
  return x != x ? x : y;
}

}  // namespace upcycle
