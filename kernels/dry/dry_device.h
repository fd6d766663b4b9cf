#pragma once
#include <cstddef>

#include "core/device.h"

namespace upcycle {

// A device whose memory is only reserved addresses: pages are backed when touched, and the dry ops touch almost none.
// So the real layout code can lay out a rank of any size on any machine. Only copies to the host are made, of zeros
// except for what dry ops have written; no dry op reads what the other copies would bring.
class DryDevice final : public Device {
 public:
  DeviceKind kind() const override { return DeviceKind::Cpu; }
  std::unique_ptr<Stream> make_stream() override;
  void* allocate(std::size_t bytes) override;
  void release(void* data, std::size_t bytes) override;
  void* allocate_host(std::size_t bytes) override;
  void copy(Stream& stream, CopyKind kind, void* to, const void* from, const Runs& runs) override;

  std::size_t in_use() const { return in_use_; }  // bytes of the device
  std::size_t peak() const { return peak_; }      // the most ever in use

 private:
  std::size_t in_use_ = 0, peak_ = 0;
};

}  // namespace upcycle
