#pragma once
#include <cstddef>
#include <type_traits>
#include <utility>

#include "core/device.h"

namespace upcycle {

// An array in host memory that a device's copies reach directly (pinned on CUDA). Zeroed. The device must outlive it.
template <class T>
class HostArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  HostArray() = default;
  HostArray(Device& device, std::size_t size)
      : device_(&device), data_(static_cast<T*>(device.allocate_host(size * sizeof(T)))), size_(size) {}
  ~HostArray() {
    if (data_ != nullptr) device_->release_host(data_, size_ * sizeof(T));
  }
  HostArray(HostArray&& other) noexcept { *this = std::move(other); }
  HostArray& operator=(HostArray&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) const { return data_[i]; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }

 private:
  Device* device_ = nullptr;
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace upcycle
