#include "data/permutation.h"

#include <bit>

#include "core/check.h"
#include "core/rng.h"

namespace upcycle {

Permutation::Permutation(std::uint64_t size, std::uint64_t seed, std::uint64_t key)
    : size_(size), seed_(seed), key_(key), half_bits_((std::bit_width(size - 1) + 1) / 2) {
  UPCYCLE_CHECK(size > 0 && size <= std::uint64_t{1} << 62, "permutation of {}", size);
}

std::uint64_t Permutation::operator()(std::uint64_t index) const {
  UPCYCLE_CHECK(index < size_, "element {} of a permutation of {}", index, size_);
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  do {  // fewer than four iterations on average: the network's domain is below four times `size`
    std::uint64_t left = index >> half_bits_, right = index & mask;
    for (std::uint64_t round = 0; round < 8; ++round) {
      const auto draw = rng::bits(seed_, key_, round << 32 | right);
      const std::uint64_t next = left ^ (draw[0] & mask);
      left = right;
      right = next;
    }
    index = left << half_bits_ | right;
  } while (index >= size_);
  return index;
}

}  // namespace upcycle
