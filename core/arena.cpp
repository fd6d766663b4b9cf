#include "core/arena.h"

#include <algorithm>

#include "core/check.h"

namespace upcycle {

Arena::~Arena() { free(); }

Arena::Arena(Arena&& other) noexcept : Arena("") { *this = std::move(other); }

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(label_, other.label_);
  std::swap(classes_, other.classes_);
  std::swap(device_, other.device_);
  std::swap(where_, other.where_);
  std::swap(data_, other.data_);
  std::swap(capacity_, other.capacity_);
  std::swap(used_, other.used_);
  std::swap(high_water_, other.high_water_);
  return *this;
}

Tensor Arena::take(DType dtype, std::initializer_list<std::int64_t> shape) {
  Tensor t(nullptr, dtype, shape);
  const std::size_t begin = used_;
  used_ += align(t.bytes());
  if (used_ > high_water_) count(used_ - high_water_);
  if (allocated()) {
    UPCYCLE_CHECK(used_ <= capacity_, "arena {} is {} bytes, {} needed for {}", name_, capacity_, used_, t.describe());
    t.data = data_ + begin;
  }
  return t;
}

void Arena::count(std::size_t growth) {
  high_water_ += growth;
  const auto same = [this](const MemoryClass& c) { return c.name == label_; };
  auto at = std::find_if(classes_.begin(), classes_.end(), same);
  if (at == classes_.end()) at = classes_.insert(at, {label_, 0, false});
  at->bytes += growth;
}

std::string Arena::label(std::string label) { return std::exchange(label_, std::move(label)); }

void Arena::release_to(std::size_t mark) {
  UPCYCLE_CHECK(mark <= used_, "arena {}: release to {} past {}", name_, mark, used_);
  used_ = mark;
}

void Arena::advance_to(std::size_t mark) {
  UPCYCLE_CHECK(mark <= high_water_, "arena {}: advance to {} past {}", name_, mark, high_water_);
  used_ = std::max(used_, mark);
}

void Arena::allocate(Device& device, Memory where) {
  UPCYCLE_CHECK(!allocated(), "arena {} is already allocated", name_);
  capacity_ = high_water_;
  data_ = static_cast<char*>(where == Memory::Device ? device.allocate(capacity_) : device.allocate_host(capacity_));
  device_ = &device;
  where_ = where;
  used_ = high_water_ = 0;
  classes_.clear();
}

void Arena::free() {
  if (device_ != nullptr && where_ == Memory::Device) device_->release(data_, capacity_);
  if (device_ != nullptr && where_ == Memory::Host) device_->release_host(data_, capacity_);
  device_ = nullptr;
  data_ = nullptr;
  capacity_ = used_ = high_water_ = 0;
  classes_.clear();
}

}  // namespace upcycle
