#pragma once
#include <cstddef>

#include "core/device.h"

namespace upcycle {

// A device whose memory is addresses alone: nothing stands behind them until a page is touched, and the dry ops touch
// next to none. So a rank of any size can be laid out on any machine, by the code that lays out a real one.
//   copy_from_host copies nothing (no dry op reads it), copy_to_host copies: zeros, but for what dry ops have written.
class DryDevice final : public Device {
 public:
  DeviceKind kind() const override { return DeviceKind::Cpu; }
  std::unique_ptr<Stream> make_stream() override;
  void* allocate(std::size_t bytes) override;
  void release(void* data, std::size_t bytes) override;
  void copy_to_host(Stream& stream, void* host, const void* device, std::size_t bytes) override;
  void copy_from_host(Stream&, void*, const void*, std::size_t) override {}

  std::size_t in_use() const { return in_use_; }  // bytes
  std::size_t peak() const { return peak_; }      // the most ever in use

 private:
  std::size_t in_use_ = 0, peak_ = 0;
};

}  // namespace upcycle
