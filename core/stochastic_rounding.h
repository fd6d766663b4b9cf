#pragma once
#include <cstdint>

#include "core/rng.h"

// fp32 to bf16, up or down at random: up with the probability that makes the mean exact, so that small changes of a
// number add up where rounding to nearest would lose each of them. What is drawn depends on the stream and on the
// element's number alone.
namespace upcycle {

// A stream of draws. Element e takes 16 of the 128 bits of block e / 8.
struct DrawStream {
  std::uint64_t seed = 0, key = 0;
};

UPCYCLE_HOST_DEVICE inline void draw_block(std::uint32_t (&words)[4], const DrawStream& s, std::uint64_t block) {
  words[0] = static_cast<std::uint32_t>(block);
  words[1] = static_cast<std::uint32_t>(block >> 32);
  words[2] = static_cast<std::uint32_t>(s.key);
  words[3] = static_cast<std::uint32_t>(s.key >> 32);
  rng::philox(words, static_cast<std::uint32_t>(s.seed), static_cast<std::uint32_t>(s.seed >> 32));
}

UPCYCLE_HOST_DEVICE inline std::uint32_t draw_of(const std::uint32_t (&words)[4], std::uint64_t element) {
  const std::uint32_t low = (element & 2) != 0 ? words[1] : words[0], high = (element & 2) != 0 ? words[3] : words[2];
  return ((element & 4) != 0 ? high : low) >> (16 * (element & 1)) & 0xffffu;
}

// The bits of the bf16 number below (in magnitude) or above; of a bf16 number, itself; of NaN, NaN. The largest numbers
// may become infinite, as with rounding to nearest.
UPCYCLE_HOST_DEVICE constexpr std::uint16_t round_by_draw(std::uint32_t fp32, std::uint32_t draw) {
  return static_cast<std::uint16_t>((fp32 & 0x7fffffffu) > 0x7f800000u ? fp32 >> 16 | 0x40u : (fp32 + draw) >> 16);
}

}  // namespace upcycle
