#include "data/hash.h"

#include <xxhash.h>

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "data/files.h"

namespace upcycle {

struct Hasher::State {
  XXH3_state_t* xxh = XXH3_createState();  // the library's own allocation: it must be aligned to 64 bytes
  ~State() { XXH3_freeState(xxh); }
};

Hasher::Hasher() : state_(std::make_unique<State>()) {
  UPCYCLE_CHECK(state_->xxh != nullptr && XXH3_128bits_reset(state_->xxh) == XXH_OK, "XXH3 state");
}
Hasher::~Hasher() = default;

void Hasher::update(const void* data, std::size_t bytes) {
  if (bytes == 0) return;
  UPCYCLE_CHECK(XXH3_128bits_update(state_->xxh, data, bytes) == XXH_OK, "XXH3 update of {} bytes", bytes);
}

std::string Hasher::hex() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->xxh);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string hash_bytes(const void* data, std::size_t bytes) {
  Hasher hasher;
  hasher.update(data, bytes);
  return hasher.hex();
}

std::string hash_file(const std::string& path) {
  const FileDescriptor file = open_regular_file(path);
  const std::uint64_t size = file.size();
  std::vector<char> block(std::min<std::uint64_t>(std::max<std::uint64_t>(size, 1), std::uint64_t{4} << 20));
  Hasher hasher;
  for (std::uint64_t at = 0; at < size;) {
    const std::size_t bytes = std::min<std::uint64_t>(block.size(), size - at);
    file.read_at(at, block.data(), bytes);
    hasher.update(block.data(), bytes);
    at += bytes;
  }
  return hasher.hex();
}

}  // namespace upcycle
