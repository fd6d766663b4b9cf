#include <mpi.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <exception>
#include <vector>

#include "core/error.h"
#include "core/trace.h"
#include "parallel/comm/backends.h"
#include "parallel/comm/checks.h"
#include "parallel/comm/mpi_error.h"
#include "parallel/comm/sums.h"

namespace upcycle {
namespace {

// Pieces of this many bytes keep every rank's share aligned for vector loads.
constexpr std::size_t kAlign = 64;

std::size_t piece_bytes(int size, const MpiLimits& limits) {
  const std::size_t piece = std::min(limits.piece_bytes, limits.scratch_bytes / static_cast<std::size_t>(size));
  return std::max<std::size_t>(piece / kAlign, 1) * kAlign;
}

int as_int(std::size_t n) {
  UPCYCLE_CHECK(n <= INT_MAX, "{} does not fit an MPI count", n);
  return static_cast<int>(n);
}

// `bytes` bytes, and the next element `extent` bytes further on: places of different ranks are then told by their
// index, and no offset in bytes has to fit an int.
class BlockType {
 public:
  BlockType(std::size_t bytes, std::size_t extent) {
    MPI_Datatype block = MPI_DATATYPE_NULL;
    UPCYCLE_MPI(MPI_Type_contiguous(as_int(bytes), MPI_BYTE, &block));
    UPCYCLE_MPI(MPI_Type_create_resized(block, 0, static_cast<MPI_Aint>(extent), &type_));
    UPCYCLE_MPI(MPI_Type_commit(&type_));
    UPCYCLE_MPI(MPI_Type_free(&block));
  }
  ~BlockType() { MPI_Type_free(&type_); }
  BlockType(const BlockType&) = delete;
  BlockType& operator=(const BlockType&) = delete;
  MPI_Datatype get() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(std::string name, MPI_Comm comm, const MpiLimits& limits);
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::string& name() const override { return name_; }

  Event all_reduce(const Tensor& data) override;
  Event reduce_scatter(const Tensor& out, const Tensor& in) override;
  Event all_gather(const Tensor& out, const Tensor& in) override;
  Event all_to_all_v(const Tensor& out, std::span<const std::int64_t> recv_counts, const Tensor& in,
                     std::span<const std::int64_t> send_counts) override;
  void exchange_counts(std::span<std::int64_t> out, std::span<const std::int64_t> send) override;
  Event broadcast(const Tensor& data, int root) override;
  void barrier() override;
  double max_of(double value) override;
  double sum_of(double value) override;
  std::string broadcast_text(const std::string& text, int root) override;
  std::string gather_text(const std::string& text) override;

 private:
  TraceRange begin(const char* op, std::size_t bytes) {
    record_collective(name_, ++sequence_, op, bytes);
    return TraceRange(op);
  }
  static void finish(MPI_Request& request) { UPCYCLE_MPI(MPI_Wait(&request, MPI_STATUS_IGNORE)); }

  std::size_t index(int r) const { return static_cast<std::size_t>(r); }
  std::byte* piece(int r) const { return scratch_ + index(r) * piece_; }  // where rank r's data arrives

  void small_all_reduce(const Tensor& data);
  void reduce_shares(std::byte* data, std::int64_t n, DType dtype);
  void broadcast_bytes(std::byte* data, std::size_t bytes, int root);
  const double* gather_values(double value);

  std::string name_;
  MPI_Comm comm_;
  MpiLimits limits_;
  int rank_ = 0, size_ = 1;
  std::unique_ptr<Device> host_ = make_cpu_device();
  std::size_t piece_;
  std::byte* scratch_ = nullptr;  // (size, piece_)
  // One element a rank; made once, because a call allocates nothing.
  std::vector<int> send_counts_, send_offsets_, recv_counts_, recv_offsets_;
  std::vector<const void*> sources_;
  std::uint64_t sequence_ = 0;
};

MpiCommunicator::MpiCommunicator(std::string name, MPI_Comm comm, const MpiLimits& limits)
    : name_(std::move(name)), comm_(comm), limits_(limits) {
  UPCYCLE_MPI(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
  UPCYCLE_MPI(MPI_Comm_rank(comm_, &rank_));
  UPCYCLE_MPI(MPI_Comm_size(comm_, &size_));
  piece_ = piece_bytes(size_, limits_);
  limits_.small_bytes = std::min(limits_.small_bytes, piece_);
  // Offsets inside one round are ints of bytes.
  UPCYCLE_CHECK(index(size_) * piece_ <= INT_MAX, "{} pieces of {} bytes pass 2^31", size_, piece_);
  scratch_ = static_cast<std::byte*>(host_->allocate(index(size_) * piece_));
  for (auto* v : {&send_counts_, &send_offsets_, &recv_counts_, &recv_offsets_}) v->resize(index(size_));
  sources_.resize(index(size_));
}

MpiCommunicator::~MpiCommunicator() {
  host_->release(scratch_, index(size_) * piece_);
  // Freeing is collective: while an exception unwinds this rank the others may be anywhere.
  int ended = 0;
  if (std::uncaught_exceptions() == 0 && MPI_Finalized(&ended) == MPI_SUCCESS && ended == 0) MPI_Comm_free(&comm_);
}

// Everyone gets everything and adds it all up: one exchange instead of two, and the same sums.
void MpiCommunicator::small_all_reduce(const Tensor& data) {
  MPI_Request request = MPI_REQUEST_NULL;
  const int bytes = as_int(data.bytes());
  UPCYCLE_MPI(MPI_Iallgather(data.data, bytes, MPI_BYTE, scratch_, bytes, MPI_BYTE, comm_, &request));
  finish(request);
  for (int r = 0; r < size_; ++r) sources_[index(r)] = scratch_ + index(r) * data.bytes();
  sum_in_order(data.dtype, data.data, sources_, data.size());
}

// n elements, at most size * piece_ bytes: each rank sums one share, then all gather the shares.
void MpiCommunicator::reduce_shares(std::byte* data, std::int64_t n, DType dtype) {
  const auto width = static_cast<std::int64_t>(size_of(dtype));
  const std::int64_t align = static_cast<std::int64_t>(kAlign) / width;
  const std::int64_t share = ((n + size_ - 1) / size_ + align - 1) / align * align;
  const auto offset = [&](int r) { return static_cast<int>(std::min(n, r * share) * width); };
  const auto length = [&](int r) { return offset(r + 1) - offset(r); };
  const int mine = length(rank_);
  for (int r = 0; r < size_; ++r) {
    // The own share is summed where it lies.
    send_counts_[index(r)] = r == rank_ ? 0 : length(r);
    send_offsets_[index(r)] = offset(r);
    recv_counts_[index(r)] = r == rank_ ? 0 : mine;
    recv_offsets_[index(r)] = static_cast<int>(index(r) * piece_);
    sources_[index(r)] = r == rank_ ? data + offset(r) : piece(r);
  }
  MPI_Request request = MPI_REQUEST_NULL;
  UPCYCLE_MPI(MPI_Ialltoallv(data, send_counts_.data(), send_offsets_.data(), MPI_BYTE, scratch_, recv_counts_.data(),
                             recv_offsets_.data(), MPI_BYTE, comm_, &request));
  finish(request);
  sum_in_order(dtype, data + offset(rank_), sources_, mine / width);
  for (int r = 0; r < size_; ++r) recv_counts_[index(r)] = length(r);
  UPCYCLE_MPI(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_BYTE, data, recv_counts_.data(), send_offsets_.data(), MPI_BYTE,
                              comm_, &request));
  finish(request);
}

Event MpiCommunicator::all_reduce(const Tensor& data) {
  check_all_reduce(*this, data);
  const TraceRange range = begin("all_reduce", data.bytes());
  if (data.size() == 0) return {};
  if (data.bytes() <= limits_.small_bytes) {
    small_all_reduce(data);
    return {};
  }
  const std::size_t round = index(size_) * piece_;
  for (std::size_t done = 0; done < data.bytes(); done += round) {
    const std::size_t bytes = std::min(round, data.bytes() - done);
    reduce_shares(static_cast<std::byte*>(data.data) + done, static_cast<std::int64_t>(bytes / size_of(data.dtype)),
                  data.dtype);
  }
  return {};
}

Event MpiCommunicator::reduce_scatter(const Tensor& out, const Tensor& in) {
  check_reduce_scatter(*this, out, in);
  const TraceRange range = begin("reduce_scatter", in.bytes());
  const std::size_t part = out.bytes();
  const auto* from = static_cast<const std::byte*>(in.data);
  auto* to = static_cast<std::byte*>(out.data);
  for (std::size_t done = 0; done < part; done += piece_) {
    const std::size_t bytes = std::min(piece_, part - done);
    const BlockType sent(bytes, part), received(bytes, piece_);
    for (int r = 0; r < size_; ++r) {
      send_counts_[index(r)] = recv_counts_[index(r)] = r == rank_ ? 0 : 1;
      send_offsets_[index(r)] = recv_offsets_[index(r)] = r;
      sources_[index(r)] = r == rank_ ? from + index(r) * part + done : piece(r);
    }
    MPI_Request request = MPI_REQUEST_NULL;
    UPCYCLE_MPI(MPI_Ialltoallv(from + done, send_counts_.data(), send_offsets_.data(), sent.get(), scratch_,
                               recv_counts_.data(), recv_offsets_.data(), received.get(), comm_, &request));
    finish(request);
    sum_in_order(in.dtype, to + done, sources_, static_cast<std::int64_t>(bytes / size_of(in.dtype)));
  }
  return {};
}

Event MpiCommunicator::all_gather(const Tensor& out, const Tensor& in) {
  check_all_gather(*this, out, in);
  const TraceRange range = begin("all_gather", in.bytes());
  const std::size_t part = in.bytes();
  auto* to = static_cast<std::byte*>(out.data);
  std::byte* own = to + index(rank_) * part;
  // MPI wants "in place" on all ranks or on none, and may be told differently on each: make it all.
  if (part != 0 && own != in.data) std::memcpy(own, in.data, part);
  for (std::size_t done = 0; done < part; done += limits_.message_bytes) {
    const BlockType block(std::min(limits_.message_bytes, part - done), part);
    MPI_Request request = MPI_REQUEST_NULL;
    UPCYCLE_MPI(MPI_Iallgather(MPI_IN_PLACE, 0, MPI_BYTE, to + done, 1, block.get(), comm_, &request));
    finish(request);
  }
  return {};
}

Event MpiCommunicator::all_to_all_v(const Tensor& out, std::span<const std::int64_t> recv_counts, const Tensor& in,
                                    std::span<const std::int64_t> send_counts) {
  check_all_to_all_v(*this, out, recv_counts, in, send_counts);
  const std::size_t row = static_cast<std::size_t>(in.columns()) * size_of(in.dtype);
  std::int64_t sent = 0, received = 0, own_from = 0, own_to = 0;
  for (int r = 0; r < size_; ++r) {
    const std::size_t i = index(r);
    UPCYCLE_CHECK(sent + send_counts[i] <= INT_MAX && received + recv_counts[i] <= INT_MAX,
                  "{} all_to_all_v: {} rows sent or {} received pass 2^31; use longer rows", name_,
                  sent + send_counts[i], received + recv_counts[i]);
    if (r == rank_) own_from = sent, own_to = received;
    send_counts_[i] = r == rank_ ? 0 : static_cast<int>(send_counts[i]);
    recv_counts_[i] = r == rank_ ? 0 : static_cast<int>(recv_counts[i]);
    send_offsets_[i] = static_cast<int>(sent);
    recv_offsets_[i] = static_cast<int>(received);
    sent += send_counts[i];
    received += recv_counts[i];
  }
  const TraceRange range = begin("all_to_all_v", static_cast<std::size_t>(sent) * row);
  if (row == 0) return {};
  const BlockType rows(row, row);
  MPI_Request request = MPI_REQUEST_NULL;
  UPCYCLE_MPI(MPI_Ialltoallv(in.data, send_counts_.data(), send_offsets_.data(), rows.get(), out.data,
                             recv_counts_.data(), recv_offsets_.data(), rows.get(), comm_, &request));
  // Our own rows are copied while the others are under way.
  const std::size_t own = static_cast<std::size_t>(send_counts[index(rank_)]) * row;
  if (own != 0) {
    std::memcpy(static_cast<std::byte*>(out.data) + static_cast<std::size_t>(own_to) * row,
                static_cast<const std::byte*>(in.data) + static_cast<std::size_t>(own_from) * row, own);
  }
  finish(request);
  return {};
}

void MpiCommunicator::exchange_counts(std::span<std::int64_t> out, std::span<const std::int64_t> send) {
  check_exchange_counts(*this, out, send);
  const TraceRange range = begin("exchange_counts", send.size_bytes());
  const int each = as_int(send.size() / index(size_));
  MPI_Request request = MPI_REQUEST_NULL;
  UPCYCLE_MPI(MPI_Ialltoall(send.data(), each, MPI_INT64_T, out.data(), each, MPI_INT64_T, comm_, &request));
  finish(request);
}

void MpiCommunicator::broadcast_bytes(std::byte* data, std::size_t bytes, int root) {
  for (std::size_t done = 0; done < bytes; done += limits_.message_bytes) {
    const int count = as_int(std::min(limits_.message_bytes, bytes - done));
    MPI_Request request = MPI_REQUEST_NULL;
    UPCYCLE_MPI(MPI_Ibcast(data + done, count, MPI_BYTE, root, comm_, &request));
    finish(request);
  }
}

Event MpiCommunicator::broadcast(const Tensor& data, int root) {
  check_broadcast(*this, data, root);
  const TraceRange range = begin("broadcast", rank_ == root ? data.bytes() : 0);
  broadcast_bytes(static_cast<std::byte*>(data.data), data.bytes(), root);
  return {};
}

void MpiCommunicator::barrier() {
  const TraceRange range = begin("barrier", 0);
  MPI_Request request = MPI_REQUEST_NULL;
  UPCYCLE_MPI(MPI_Ibarrier(comm_, &request));
  finish(request);
}

// Every rank's value, in rank order, in the scratch.
const double* MpiCommunicator::gather_values(double value) {
  auto* values = reinterpret_cast<double*>(scratch_);
  MPI_Request request = MPI_REQUEST_NULL;
  UPCYCLE_MPI(MPI_Iallgather(&value, 1, MPI_DOUBLE, values, 1, MPI_DOUBLE, comm_, &request));
  finish(request);
  return values;
}

double MpiCommunicator::max_of(double value) {
  const TraceRange range = begin("max_of", sizeof(value));
  const double* values = gather_values(value);
  double result = values[0];
  for (int r = 1; r < size_; ++r) {
    if (std::isnan(values[r]) || values[r] > result) result = values[r];  // a NaN stays: nothing is greater
  }
  return result;
}

double MpiCommunicator::sum_of(double value) {
  const TraceRange range = begin("sum_of", sizeof(value));
  const double* values = gather_values(value);
  double result = values[0];
  for (int r = 1; r < size_; ++r) result += values[r];
  return result;
}

std::string MpiCommunicator::broadcast_text(const std::string& text, int root) {
  check_root(*this, root);
  const TraceRange range = begin("broadcast_text", rank_ == root ? text.size() : 0);
  std::uint64_t length = text.size();
  broadcast_bytes(reinterpret_cast<std::byte*>(&length), sizeof(length), root);
  std::string result = rank_ == root ? text : std::string(length, '\0');
  broadcast_bytes(reinterpret_cast<std::byte*>(result.data()), length, root);
  return result;
}

std::string MpiCommunicator::gather_text(const std::string& text) {
  const TraceRange range = begin("gather_text", text.size());
  const std::int64_t length = static_cast<std::int64_t>(text.size());
  std::vector<std::int64_t> lengths(index(size_));
  MPI_Request request = MPI_REQUEST_NULL;
  UPCYCLE_MPI(MPI_Iallgather(&length, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, comm_, &request));
  finish(request);
  std::size_t total = 0;
  for (int r = 0; r < size_; ++r) {
    recv_offsets_[index(r)] = as_int(total);
    recv_counts_[index(r)] = as_int(static_cast<std::size_t>(lengths[index(r)]));
    total += static_cast<std::size_t>(lengths[index(r)]);
  }
  std::string result(total, '\0');
  UPCYCLE_MPI(MPI_Iallgatherv(text.data(), as_int(text.size()), MPI_CHAR, result.data(), recv_counts_.data(),
                              recv_offsets_.data(), MPI_CHAR, comm_, &request));
  finish(request);
  return result;
}

}  // namespace

std::size_t reduction_scratch_bytes(int size, const MpiLimits& limits) {
  return size == 1 ? 0 : static_cast<std::size_t>(size) * piece_bytes(size, limits);
}

std::unique_ptr<Communicator> make_mpi_communicator(std::string name, int color, int key, const MpiLimits& limits) {
  MPI_Comm comm = MPI_COMM_NULL;
  UPCYCLE_MPI(MPI_Comm_split(MPI_COMM_WORLD, color, key, &comm));
  int size = 0;
  UPCYCLE_MPI(MPI_Comm_size(comm, &size));
  if (size == 1) {
    UPCYCLE_MPI(MPI_Comm_free(&comm));
    return make_single_communicator(std::move(name));
  }
  return std::make_unique<MpiCommunicator>(std::move(name), comm, limits);
}

}  // namespace upcycle
