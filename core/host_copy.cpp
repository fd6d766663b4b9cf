#include "core/host_copy.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace upcycle {
namespace {

void copy_block(char* to, const char* from, std::size_t bytes) {
  std::size_t done = 0;
#ifdef __SSE2__
  if (reinterpret_cast<std::uintptr_t>(to) % sizeof(__m128i) == 0) {
    constexpr std::size_t line = 64;
    for (; done + line <= bytes; done += line)
      for (std::size_t i = done; i < done + line; i += sizeof(__m128i))
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                         _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    _mm_sfence();  // a thread that is told of the copy sees it
  }
#endif
  std::memcpy(to + done, from + done, bytes - done);
}

}  // namespace

void copy_past_caches(void* to, const void* from, std::size_t bytes) {
  constexpr std::int64_t block = std::int64_t{1} << 20;
  const auto all = static_cast<std::int64_t>(bytes);
#pragma omp parallel for schedule(static) if (all > block)
  for (std::int64_t begin = 0; begin < all; begin += block)
    copy_block(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin,
               static_cast<std::size_t>(std::min(block, all - begin)));
}

}  // namespace upcycle
