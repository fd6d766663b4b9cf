#pragma once
#include <bit>
#include <cstdint>

// IEEE's 16-bit floats, as files have them; nothing is computed in them.
namespace upcycle {

inline constexpr float largest_half = 65504;

constexpr float half_to_float(std::uint16_t h) {
  const std::uint32_t sign = (h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float subnormal = static_cast<float>(fraction) * 0x1p-24f;
  return sign != 0 ? -subnormal : subnormal;
}

// Rounds to nearest, ties to even: to infinity from 65520 on, to zero up to 2^-25. NaN stays NaN.
constexpr std::uint16_t float_to_half(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x), magnitude = bits & 0x7fffffffu;
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x3ffu);  // quiet: what is left of its payload may be nothing
  } else if (magnitude >= std::bit_cast<std::uint32_t>(65520.0f)) {
    half = 0x7c00u;
  } else if (magnitude < std::bit_cast<std::uint32_t>(0x1p-14f)) {
    // Subnormal: in multiples of 2^-24, to which the sum with 1/2 is rounded.
    half = std::bit_cast<std::uint32_t>(0.5f + std::bit_cast<float>(magnitude)) - std::bit_cast<std::uint32_t>(0.5f);
  } else {
    half = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}

}  // namespace upcycle
