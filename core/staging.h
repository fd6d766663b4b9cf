#pragma once
#include <array>
#include <cstdint>
#include <functional>

#include "core/device.h"
#include "core/tensor.h"

namespace upcycle {

// How host code reads and writes a device's tensors: in pieces of bounded size, through a ring of pinned buffers, so
// that one piece is copied while the host fills or reads another. A CPU device's memory is passed directly. Copies are
// in stream order; all are finished when the destructor returns.
class Staging {
 public:
  static constexpr std::size_t kPieceBytes = std::size_t{8} << 20;

  Staging() = default;  // host memory, no device
  Staging(Device& device, Stream& stream, std::size_t piece_bytes = kPieceBytes);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Called for consecutive parts of a tensor: `host` holds, or receives, `rows` packed rows (of a vector: elements)
  // from `row` on. Throws Error if one row is longer than a piece, or if the callback uses the same Staging, which
  // would overwrite its piece.
  using Fill = std::function<void(void* host, std::int64_t row, std::int64_t rows)>;
  using Use = std::function<void(const void* host, std::int64_t row, std::int64_t rows)>;
  void write(const Tensor& to, const Fill& fill);
  void read(const Tensor& from, const Use& use);

 private:
  struct Piece {
    char* data = nullptr;
    Event copied;  // the end of its last copy
  };
  bool on_host() const { return device_ == nullptr || device_->kind() == DeviceKind::Cpu; }
  std::int64_t rows_of_a_piece(const Tensor& t) const;
  Piece& next();  // the least recently used piece, once its copy has ended

  Device* device_ = nullptr;
  Stream* stream_ = nullptr;
  std::size_t piece_bytes_ = kPieceBytes;
  std::array<Piece, 2> pieces_;
  std::size_t used_ = 0;
  bool busy_ = false;
};

// Copies a tensor (fp32 or bf16; rows may be strided) from or to packed floats; writing rounds to nearest.
void write_floats(Staging& staging, const Tensor& to, const float* values);
void read_floats(Staging& staging, const Tensor& from, float* values);

}  // namespace upcycle
