#pragma once
#include <fmt/core.h>

#include <cstdint>
#include <string>

namespace upcycle {

// "1.50 GiB", in the largest unit from KiB to GiB of which it is at least one.
inline std::string size_text(std::uint64_t bytes) {
  constexpr double kib = 1 << 10, mib = 1 << 20, gib = 1 << 30;
  const auto n = static_cast<double>(bytes);
  return n >= gib   ? fmt::format("{:.2f} GiB", n / gib)
         : n >= mib ? fmt::format("{:.2f} MiB", n / mib)
                    : fmt::format("{:.2f} KiB", n / kib);
}

}  // namespace upcycle
