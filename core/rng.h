#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "core/host_device.h"

namespace upcycle::rng {

// Counter-based randomness: every draw is a pure function of (seed, key, element), so results do not depend on the
// layout of ranks and threads. Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
UPCYCLE_HOST_DEVICE inline void philox(std::uint32_t (&counter)[4], std::uint32_t key0, std::uint32_t key1) {
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = 0xD2511F53ull * counter[0], b = 0xCD9E8D57ull * counter[2];
    counter[0] = static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key0;
    counter[1] = static_cast<std::uint32_t>(b);
    counter[2] = static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key1;
    counter[3] = static_cast<std::uint32_t>(a);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}
inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  std::uint32_t words[4] = {counter[0], counter[1], counter[2], counter[3]};
  philox(words, key[0], key[1]);
  return {words[0], words[1], words[2], words[3]};
}

// Names a stream of draws, e.g. a canonical tensor name (FNV-1a, 64 bits).
constexpr std::uint64_t key_of(std::string_view name) {
  std::uint64_t h = 0xcbf29ce484222325ull;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return h;
}

// 128 random bits for `element` of stream `key`.
inline std::array<std::uint32_t, 4> bits(std::uint64_t seed, std::uint64_t key, std::uint64_t element) {
  return philox({static_cast<std::uint32_t>(element), static_cast<std::uint32_t>(element >> 32),
                 static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)},
                {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}

// Uniform on (0, 1): 53 bits, never 0.
inline double uniform(std::uint64_t seed, std::uint64_t key, std::uint64_t element) {
  const auto b = bits(seed, key, element);
  const std::uint64_t u = (static_cast<std::uint64_t>(b[0]) << 32 | b[1]) >> 11;
  return (static_cast<double>(u) + 0.5) * 0x1p-53;
}

// Standard normal by Box-Muller; one draw per element, so that a slice can be drawn by itself.
inline double normal(std::uint64_t seed, std::uint64_t key, std::uint64_t element) {
  const auto b = bits(seed, key, element);
  const std::uint64_t u = (static_cast<std::uint64_t>(b[0]) << 32 | b[1]) >> 11;
  const std::uint64_t v = (static_cast<std::uint64_t>(b[2]) << 32 | b[3]) >> 11;
  const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(u) + 0.5) * 0x1p-53));
  return radius * std::cos(6.283185307179586 * (static_cast<double>(v) + 0.5) * 0x1p-53);
}

// Uniform integer in [0, n), n > 0 (multiply-shift; bias below n / 2^64).
inline std::uint64_t below(std::uint64_t n, std::uint64_t seed, std::uint64_t key, std::uint64_t element) {
  const auto b = bits(seed, key, element);
  const std::uint64_t u = static_cast<std::uint64_t>(b[0]) << 32 | b[1];
  return static_cast<std::uint64_t>((static_cast<unsigned __int128>(u) * n) >> 64);
}

}  // namespace upcycle::rng
