#include "parallel/serve/page_pool.h"

#include "core/check.h"

namespace upcycle {

PagePool::PagePool(std::int64_t pages) : pages_(pages) {
  free_.reserve(static_cast<std::size_t>(pages));
  for (std::int64_t p = pages - 1; p >= 0; --p) free_.push_back(static_cast<std::int32_t>(p));  // 0 is taken first
}

std::int32_t PagePool::take() {
  UPCYCLE_CHECK(!free_.empty(), "none of {} pages is free", pages_);
  const std::int32_t page = free_.back();
  free_.pop_back();
  return page;
}

void PagePool::give_back(std::vector<std::int32_t>& pages) {
  UPCYCLE_CHECK(free() + static_cast<std::int64_t>(pages.size()) <= pages_, "more pages come back than were taken");
  free_.insert(free_.end(), pages.rbegin(), pages.rend());
  pages.clear();
}

}  // namespace upcycle
