#pragma once
#include <cstdint>

#include "core/host_device.h"

// An fp32 number beside its rounding to bf16 (to nearest, ties to even), in 17 bits: its low half, and whether it was a
// tie that was rounded up. 16 are one value short: both ties round to the bf16 number whose last bit is even, so that
// one comes from 65,537 fp32 numbers (its neighbours from 65,535). Exact for all numbers but NaN. All arguments are
// bits.
namespace upcycle {

UPCYCLE_HOST_DEVICE constexpr std::uint32_t low_half(std::uint32_t fp32) { return fp32 & 0xffffu; }

// Half way between two bf16 numbers, of which the lower one is odd.
UPCYCLE_HOST_DEVICE constexpr bool raised_tie(std::uint32_t fp32) { return (fp32 & 0x1ffffu) == 0x18000u; }

UPCYCLE_HOST_DEVICE constexpr std::uint32_t join_halves(std::uint32_t rounded, std::uint32_t low, bool raised) {
  const std::uint32_t up = low > 0x8000u || raised ? 1 : 0;
  return (rounded - up) << 16 | low;
}

}  // namespace upcycle
