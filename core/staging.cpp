#include "core/staging.h"

#include <algorithm>

#include "core/check.h"
#include "core/error.h"

namespace upcycle {
namespace {

Runs runs_of(const Tensor& t, std::int64_t rows, bool to_tensor) {
  const std::size_t size = size_of(t.dtype), width = static_cast<std::size_t>(t.columns()) * size;
  if (t.contiguous()) return {width * static_cast<std::size_t>(rows)};
  const std::size_t pitch = static_cast<std::size_t>(t.row_stride) * size;
  return {width, static_cast<std::size_t>(rows), to_tensor ? pitch : width, to_tensor ? width : pitch};
}

void* row_of(const Tensor& t, std::int64_t row) {
  return static_cast<char*>(t.data) + static_cast<std::size_t>(row * t.row_stride) * size_of(t.dtype);
}

// Visits host memory in one part or, if rows are strided, row by row.
template <class Visit>
void visit_host(const Tensor& t, const Visit& visit) {
  if (t.contiguous()) return visit(t.data, 0, t.rows());
  for (std::int64_t r = 0; r < t.rows(); ++r) visit(row_of(t, r), r, 1);
}

void check_floats(const Tensor& t) {
  UPCYCLE_CHECK(t.dtype == DType::F32 || t.dtype == DType::BF16, "fp32 or bf16 expected, found {}", t.describe());
}

class Turn {
 public:
  explicit Turn(bool& busy) : busy_(busy) {
    UPCYCLE_CHECK(!busy, "a Staging is used inside its own callback: use a second one");
    busy_ = true;
  }
  ~Turn() { busy_ = false; }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  bool& busy_;
};

}  // namespace

Staging::Staging(Device& device, Stream& stream, std::size_t piece_bytes)
    : device_(&device), stream_(&stream), piece_bytes_(piece_bytes) {}

Staging::~Staging() {
  for (const Piece& p : pieces_) {
    if (p.data == nullptr) continue;
    try {
      finish(p.copied);
    } catch (const Error&) {  // the device has failed: the next call reports it
    }
    device_->release_host(p.data, piece_bytes_);
  }
}

std::int64_t Staging::rows_of_a_piece(const Tensor& t) const {
  const std::size_t width = static_cast<std::size_t>(t.columns()) * size_of(t.dtype);
  UPCYCLE_CHECK(width <= piece_bytes_, "a row of {} passes a piece of {} bytes", t.describe(), piece_bytes_);
  return static_cast<std::int64_t>(piece_bytes_ / width);
}

Staging::Piece& Staging::next() {
  Piece& p = pieces_[used_++ % pieces_.size()];
  if (p.data == nullptr) p.data = static_cast<char*>(device_->allocate_host(piece_bytes_));
  finish(p.copied);
  return p;
}

void Staging::write(const Tensor& to, const Fill& fill) {
  if (to.size() == 0) return;
  const Turn turn(busy_);
  if (on_host()) return visit_host(to, fill);
  const std::int64_t step = rows_of_a_piece(to);
  for (std::int64_t row = 0; row < to.rows(); row += step) {
    const std::int64_t rows = std::min(step, to.rows() - row);
    Piece& p = next();
    fill(p.data, row, rows);
    device_->copy_from_host(*stream_, row_of(to, row), p.data, runs_of(to, rows, true));
    p.copied = stream_->record();
  }
}

void Staging::read(const Tensor& from, const Use& use) {
  if (from.size() == 0) return;
  const Turn turn(busy_);
  if (on_host()) return visit_host(from, use);
  const std::int64_t step = rows_of_a_piece(from);
  const auto start = [&](std::int64_t row) -> Piece* {
    if (row >= from.rows()) return nullptr;
    Piece& p = next();
    device_->copy_to_host(*stream_, p.data, row_of(from, row), runs_of(from, std::min(step, from.rows() - row), false));
    p.copied = stream_->record();
    return &p;
  };
  Piece* here = start(0);
  for (std::int64_t row = 0; row < from.rows(); row += step) {
    Piece* const ahead = start(row + step);  // is copied while this one is used
    finish(here->copied);
    use(here->data, row, std::min(step, from.rows() - row));
    here = ahead;
  }
}

void write_floats(Staging& staging, const Tensor& to, const float* values) {
  check_floats(to);
  staging.write(to, [&](void* host, std::int64_t row, std::int64_t rows) {
    const float* const from = values + row * to.columns();
    const std::int64_t n = rows * to.columns();
    if (to.dtype == DType::BF16)
      std::transform(from, from + n, static_cast<bf16*>(host), to_bf16);
    else
      std::copy_n(from, n, static_cast<float*>(host));
  });
}

void read_floats(Staging& staging, const Tensor& from, float* values) {
  check_floats(from);
  staging.read(from, [&](const void* host, std::int64_t row, std::int64_t rows) {
    float* const to = values + row * from.columns();
    const std::int64_t n = rows * from.columns();
    if (from.dtype == DType::BF16)
      std::transform(static_cast<const bf16*>(host), static_cast<const bf16*>(host) + n, to,
                     [](bf16 x) { return to_float(x); });
    else
      std::copy_n(static_cast<const float*>(host), n, to);
  });
}

}  // namespace upcycle
