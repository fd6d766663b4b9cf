#pragma once
#include <cstdint>

namespace upcycle {

// A pseudo-random permutation of [0, size) that is computed, not stored: a Feistel network over the next even power of
// two whose rounds are Philox draws, iterated until the result is below size (cycle walking: Black and Rogaway,
// "Ciphers with arbitrary finite domains", 2002). A pure function of (size, seed, key).
class Permutation {
 public:
  Permutation(std::uint64_t size, std::uint64_t seed, std::uint64_t key);
  std::uint64_t operator()(std::uint64_t index) const;  // index < size

 private:
  std::uint64_t size_, seed_, key_;
  int half_bits_;
};

}  // namespace upcycle
