#include "parallel/comm/single_communicator.h"

#include <cstring>

#include "core/flight_record.h"
#include "core/trace.h"
#include "parallel/comm/collective_checks.h"

namespace upcycle {
namespace {

// Calls are checked and recorded as in larger groups, so that a run on one rank finds wrong arguments and writes the
// same trace.
class SingleCommunicator final : public Communicator {
 public:
  explicit SingleCommunicator(std::string name) : name_(std::move(name)) {}
  SingleCommunicator(std::string name, Device& device, Stream& stream)
      : name_(std::move(name)), device_(&device), stream_(&stream) {}

  int rank() const override { return 0; }
  int size() const override { return 1; }
  const std::string& name() const override { return name_; }

  Event all_reduce(const Tensor& data) override {
    check_all_reduce(*this, data);
    record("all_reduce", data.bytes());
    return {};
  }

  Event reduce_scatter(const Tensor& out, const Tensor& in) override {
    check_reduce_scatter(*this, out, in);
    record("reduce_scatter", in.bytes());
    copy(out.data, in.data, in.bytes());
    return {};
  }

  Event all_gather(const Tensor& out, const Tensor& in) override {
    check_all_gather(*this, out, in);
    record("all_gather", in.bytes());
    copy(out.data, in.data, in.bytes());
    return {};
  }

  Event all_to_all_v(const Tensor& out, std::span<const std::int64_t> recv_counts, const Tensor& in,
                     std::span<const std::int64_t> send_counts) override {
    check_all_to_all_v(*this, out, recv_counts, in, send_counts);
    const std::size_t bytes = static_cast<std::size_t>(send_counts[0] * in.columns()) * size_of(in.dtype);
    record("all_to_all_v", bytes);
    copy(out.data, in.data, bytes);
    return {};
  }

  void barrier() override { record("barrier", 0); }

  double max_of(double value) override {
    record("max_of", sizeof(value));
    return value;
  }
  double sum_of(double value) override {
    record("sum_of", sizeof(value));
    return value;
  }
  std::string broadcast_text(const std::string& text, int root) override {
    check_root(*this, root);
    record("broadcast_text", text.size());
    return text;
  }
  std::string gather_text(const std::string& text) override {
    record("gather_text", text.size());
    return text;
  }

 private:
  void copy(void* to, const void* from, std::size_t bytes) const {
    if (bytes == 0 || to == from) return;
    if (device_ == nullptr)
      std::memcpy(to, from, bytes);
    else
      device_->copy(*stream_, CopyKind::OnDevice, to, from, bytes);
  }
  void record(const char* op, std::size_t bytes) { flight_ended(record_collective(name_, ++sequence_, op, bytes)); }

  std::string name_;
  Device* device_ = nullptr;  // null: host memory
  Stream* stream_ = nullptr;
  std::uint64_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator(std::string name) {
  return std::make_unique<SingleCommunicator>(std::move(name));
}
std::unique_ptr<Communicator> make_single_communicator(std::string name, Device& device, Stream& stream) {
  return std::make_unique<SingleCommunicator>(std::move(name), device, stream);
}

}  // namespace upcycle
