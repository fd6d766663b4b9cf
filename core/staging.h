#pragma once
#include <array>
#include <cstdint>
#include <functional>

#include "core/device.h"
#include "core/tensor.h"

namespace upcycle {

// The way of host code to a device's tensors: in pieces of bounded size, through a ring of pinned memory, so that one
// piece travels while the host fills or reads another. Host memory, and a CPU device's, is handed out itself.
// Copies are in the stream's order; none is left under way once the destructor has returned.
class Staging {
 public:
  static constexpr std::size_t kPieceBytes = std::size_t{8} << 20;

  Staging() = default;  // host memory, no device
  Staging(Device& device, Stream& stream, std::size_t piece_bytes = kPieceBytes);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Called for consecutive parts of a tensor: `rows` rows (of a vector: elements) from `row` on lie packed at `host`.
  // Throws Error where one row is longer than a piece, and where a part's function uses the same Staging: its piece
  // would be filled again under it.
  using Fill = std::function<void(void* host, std::int64_t row, std::int64_t rows)>;
  using Use = std::function<void(const void* host, std::int64_t row, std::int64_t rows)>;
  void write(const Tensor& to, const Fill& fill);
  void read(const Tensor& from, const Use& use);

 private:
  struct Piece {
    char* data = nullptr;
    Event travelled;  // the last copy from or to it
  };
  bool on_host() const { return device_ == nullptr || device_->kind() == DeviceKind::Cpu; }
  std::int64_t rows_of_a_piece(const Tensor& t) const;
  Piece& next();  // the piece that was used longest ago, once its copy has ended

  Device* device_ = nullptr;
  Stream* stream_ = nullptr;
  std::size_t piece_bytes_ = kPieceBytes;
  std::array<Piece, 2> pieces_;
  std::size_t used_ = 0;
  bool busy_ = false;
};

// Values of a tensor (fp32 or bf16; its rows may be strided) as floats, packed; writing rounds to the nearest.
void write_floats(Staging& staging, const Tensor& to, const float* values);
void read_floats(Staging& staging, const Tensor& from, float* values);

}  // namespace upcycle
