#include "core/arena.h"

#include <algorithm>

namespace upcycle {

Arena::~Arena() { free(); }

Arena::Arena(Arena&& other) noexcept : Arena("") { *this = std::move(other); }

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(capacity_, other.capacity_);
  std::swap(used_, other.used_);
  std::swap(high_water_, other.high_water_);
  return *this;
}

Tensor Arena::take(DType dtype, std::initializer_list<std::int64_t> shape) {
  Tensor t(nullptr, dtype, shape);
  const std::size_t begin = used_;
  used_ += (t.bytes() + 63) / 64 * 64;
  high_water_ = std::max(high_water_, used_);
  if (allocated()) {
    UPCYCLE_CHECK(used_ <= capacity_, "arena {} is {} bytes, {} needed for {}", name_, capacity_, used_, t.describe());
    t.data = data_ + begin;
  }
  return t;
}

void Arena::release_to(std::size_t mark) {
  UPCYCLE_CHECK(mark <= used_, "arena {}: release to {} past {}", name_, mark, used_);
  used_ = mark;
}

void Arena::advance_to(std::size_t mark) {
  UPCYCLE_CHECK(mark <= high_water_, "arena {}: advance to {} past {}", name_, mark, high_water_);
  used_ = std::max(used_, mark);
}

void Arena::allocate(Device& device) {
  UPCYCLE_CHECK(!allocated(), "arena {} is already allocated", name_);
  capacity_ = high_water_;
  data_ = static_cast<char*>(device.allocate(capacity_));
  device_ = &device;
  used_ = high_water_ = 0;
}

void Arena::free() {
  if (device_ != nullptr) device_->release(data_, capacity_);
  device_ = nullptr;
  data_ = nullptr;
  capacity_ = used_ = high_water_ = 0;
}

}  // namespace upcycle
