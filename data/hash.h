#pragma once
#include <cstddef>
#include <memory>
#include <string>

namespace upcycle {

// XXH3, 128 bits (github.com/Cyan4973/xxHash): detects damage, not malice; faster than any disk. As text: 32 hex
// digits, in the canonical form that `xxhsum -H2` prints.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;
  void update(const void* data, std::size_t bytes);
  std::string hex() const;  // of all bytes so far; more updates may follow

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string hash_bytes(const void* data, std::size_t bytes);
// Reads the file once through a bounded buffer. A missing file is an InputError.
std::string hash_file(const std::string& path);

}  // namespace upcycle
