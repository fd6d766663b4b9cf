#include "parallel/train/findings.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>

#include "data/hash.h"

namespace upcycle {

std::string rank_and_host(const Mesh& mesh) {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '?';
  return fmt::format("rank {} on {}", mesh.rank, host.data());
}

std::string earliest(Communicator& world, std::int64_t place, const std::string& text) {
  constexpr double none = -std::numeric_limits<double>::infinity();
  const double first = world.max_of(place < 0 ? none : -static_cast<double>(place));
  if (first == none) return "";
  const std::string all = world.gather_text(-static_cast<double>(place) == first && place >= 0 ? text + "\n" : "");
  const auto others = std::count(all.begin(), all.end(), '\n') - 1;
  return all.substr(0, all.find('\n')) +
         (others > 0 ? fmt::format(" (and at the same place on {} other rank{})", others, others == 1 ? "" : "s") : "");
}

std::string digest_of(Staging& staging, const Tensor& x) {
  Hasher hasher;
  const std::size_t row = static_cast<std::size_t>(x.columns()) * size_of(x.dtype);
  staging.read(x, [&](const void* host, std::int64_t, std::int64_t rows) {
    hasher.update(host, static_cast<std::size_t>(rows) * row);
  });
  return hasher.hex();
}

}  // namespace upcycle
