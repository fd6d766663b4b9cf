#pragma once
#include <cstdint>
#include <vector>

namespace upcycle {

// The pages of a key/value cache that are free: numbers, no memory.
class PagePool {
 public:
  explicit PagePool(std::int64_t pages);
  std::int64_t free() const { return static_cast<std::int64_t>(free_.size()); }
  std::int64_t pages() const { return pages_; }
  std::int32_t take();                               // throws Error when none is free
  void give_back(std::vector<std::int32_t>& pages);  // and empties it

 private:
  std::int64_t pages_;
  std::vector<std::int32_t> free_;
};

}  // namespace upcycle
