#pragma once
#include <cstddef>

#include "core/device.h"

namespace upcycle {

// A device whose memory is addresses alone: nothing stands behind them until a page is touched, and the dry ops touch
// next to none. So a rank of any size can be laid out on any machine, by the code that lays out a real one.
// Only copies to the host are made: of zeros, but for what dry ops have written. No dry op reads what others would
// bring.
class DryDevice final : public Device {
 public:
  DeviceKind kind() const override { return DeviceKind::Cpu; }
  std::unique_ptr<Stream> make_stream() override;
  void* allocate(std::size_t bytes) override;
  void release(void* data, std::size_t bytes) override;
  void copy(Stream& stream, CopyKind kind, void* to, const void* from, const Runs& runs) override;

  std::size_t in_use() const { return in_use_; }  // bytes
  std::size_t peak() const { return peak_; }      // the most ever in use

 private:
  std::size_t in_use_ = 0, peak_ = 0;
};

}  // namespace upcycle
