#include "parallel/comm/comm_mpi.h"

#include <climits>
#include <cmath>
#include <exception>

#include "core/abort.h"
#include "core/check.h"
#include "core/trace.h"
#include "parallel/comm/collective_checks.h"
#include "parallel/comm/single_communicator.h"
#include "parallel/comm/transfer_queue.h"

namespace upcycle {
namespace {

const std::byte* bytes_of(const void* data) { return static_cast<const std::byte*>(data); }
std::byte* bytes_of(void* data) { return static_cast<std::byte*>(data); }

// Checks a call, writes it as an operation and puts it in the group's queue.
class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(std::shared_ptr<TransferQueue> queue) : queue_(std::move(queue)) {}
  ~MpiCommunicator() override;

  int rank() const override { return queue_->group().rank(); }
  int size() const override { return queue_->group().size(); }
  const std::string& name() const override { return queue_->name(); }

  Event all_reduce(const Tensor& data) override;
  Event reduce_scatter(const Tensor& out, const Tensor& in) override;
  Event all_gather(const Tensor& out, const Tensor& in) override;
  Event all_to_all_v(const Tensor& out, std::span<const std::int64_t> recv_counts, const Tensor& in,
                     std::span<const std::int64_t> send_counts) override;
  void barrier() override;
  double max_of(double value) override;
  double sum_of(double value) override;
  std::string broadcast_text(const std::string& text, int root) override;
  std::string gather_text(const std::string& text) override;

 private:
  TraceRange begin(Collective collective, std::size_t given) {
    flight_ = record_collective(name(), ++sequence_, name_of(collective), given);
    collective_ = collective;
    given_ = given;
    return TraceRange(queue_->issue_name(collective), {0, static_cast<double>(given)});
  }
  // Of the call that begin() has announced.
  Operation& operation(Movement movement) {
    Operation& op = queue_->next(collective_, sequence_, given_);
    op.movement = movement;
    op.flight = flight_;
    return op;
  }
  Event issue() {
    const std::uint64_t ticket = queue_->push();
    return {queue_, ticket};
  }
  void issue_and_wait() { queue_->finish(queue_->push()); }

  void broadcast_bytes(void* data, std::size_t bytes, int root);
  template <class T>
  std::vector<T> gather_values(T value);

  std::shared_ptr<TransferQueue> queue_;
  std::uint64_t sequence_ = 0, flight_ = 0;
  Collective collective_{};
  std::size_t given_ = 0;
};

// Freeing a group is collective: while an exception unwinds this rank, the others may be anywhere.
MpiCommunicator::~MpiCommunicator() {
  try {
    queue_->close(std::uncaught_exceptions() == 0);
  } catch (const std::exception& e) {
    abort_job(e.what());
  }
}

Event MpiCommunicator::all_reduce(const Tensor& data) {
  check_all_reduce(*this, data);
  const TraceRange range = begin(Collective::AllReduce, data.bytes());
  Operation& op = operation(data.bytes() <= queue_->small_bytes() ? Movement::SmallAllReduce : Movement::AllReduce);
  op.out = bytes_of(data.data);
  op.bytes = data.bytes();
  op.dtype = data.dtype;
  return issue();
}

Event MpiCommunicator::reduce_scatter(const Tensor& out, const Tensor& in) {
  check_reduce_scatter(*this, out, in);
  const TraceRange range = begin(Collective::ReduceScatter, in.bytes());
  Operation& op = operation(Movement::ReduceScatter);
  op.out = bytes_of(out.data);
  op.in = bytes_of(in.data);
  op.bytes = out.bytes();
  op.dtype = in.dtype;
  return issue();
}

Event MpiCommunicator::all_gather(const Tensor& out, const Tensor& in) {
  check_all_gather(*this, out, in);
  const TraceRange range = begin(Collective::AllGather, in.bytes());
  Operation& op = operation(Movement::AllGather);
  op.out = bytes_of(out.data);
  op.in = bytes_of(in.data);
  op.bytes = in.bytes();
  return issue();
}

Event MpiCommunicator::all_to_all_v(const Tensor& out, std::span<const std::int64_t> recv_counts, const Tensor& in,
                                    std::span<const std::int64_t> send_counts) {
  check_all_to_all_v(*this, out, recv_counts, in, send_counts);
  const std::size_t row = static_cast<std::size_t>(in.columns()) * size_of(in.dtype);
  std::int64_t sent = 0, received = 0;
  for (std::size_t r = 0; r < send_counts.size(); ++r) {
    sent += send_counts[r];
    received += recv_counts[r];
    UPCYCLE_CHECK(sent <= INT_MAX && received <= INT_MAX,
                  "{} all_to_all_v: {} rows sent or {} received pass 2^31; use longer rows", name(), sent, received);
  }
  const TraceRange range = begin(Collective::AllToAllV, static_cast<std::size_t>(sent) * row);
  Operation& op = operation(Movement::AllToAllV);
  op.out = bytes_of(out.data);
  op.in = bytes_of(in.data);
  op.bytes = row;  // not this rank's own sum: all ranks must agree on whether anything is sent
  op.row_bytes = row;
  for (std::size_t r = 0; r < send_counts.size(); ++r) {
    op.send_counts[r] = static_cast<int>(send_counts[r]);
    op.recv_counts[r] = static_cast<int>(recv_counts[r]);
  }
  return issue();
}

void MpiCommunicator::barrier() {
  const TraceRange range = begin(Collective::Barrier, 0);
  operation(Movement::Barrier).bytes = 1;  // not sent: 0 would skip it
  issue_and_wait();
}

// Every rank's value, in rank order.
template <class T>
std::vector<T> MpiCommunicator::gather_values(T value) {
  std::vector<T> values(static_cast<std::size_t>(size()));
  Operation& op = operation(Movement::AllGather);
  op.out = bytes_of(values.data());
  op.in = bytes_of(&value);
  op.bytes = sizeof(T);
  issue_and_wait();
  return values;
}

double MpiCommunicator::max_of(double value) {
  const TraceRange range = begin(Collective::MaxOf, sizeof(value));
  double result = -INFINITY;
  for (const double v : gather_values(value))
    if (std::isnan(v) || v > result) result = v;  // a NaN stays: nothing is greater
  return result;
}

double MpiCommunicator::sum_of(double value) {
  const TraceRange range = begin(Collective::SumOf, sizeof(value));
  const std::vector<double> values = gather_values(value);
  double result = values[0];
  for (std::size_t r = 1; r < values.size(); ++r) result += values[r];
  return result;
}

void MpiCommunicator::broadcast_bytes(void* data, std::size_t bytes, int root) {
  Operation& op = operation(Movement::Broadcast);
  op.out = bytes_of(data);
  op.bytes = bytes;
  op.root = root;
  issue_and_wait();
}

std::string MpiCommunicator::broadcast_text(const std::string& text, int root) {
  check_root(*this, root);
  const TraceRange range = begin(Collective::BroadcastText, rank() == root ? text.size() : 0);
  std::uint64_t length = text.size();
  broadcast_bytes(&length, sizeof(length), root);
  std::string result = rank() == root ? text : std::string(length, '\0');
  broadcast_bytes(result.data(), length, root);
  return result;
}

std::string MpiCommunicator::gather_text(const std::string& text) {
  const TraceRange range = begin(Collective::GatherText, text.size());
  const std::vector<std::uint64_t> lengths = gather_values(std::uint64_t{text.size()});
  std::uint64_t total = 0;
  for (const std::uint64_t length : lengths) total += length;
  UPCYCLE_CHECK(total <= INT_MAX, "{} gather_text: {} bytes pass 2^31", name(), total);
  std::string result(total, '\0');
  Operation& op = operation(Movement::GatherV);
  for (std::size_t r = 0; r < lengths.size(); ++r) op.recv_counts[r] = static_cast<int>(lengths[r]);
  op.out = bytes_of(result.data());
  op.in = bytes_of(text.data());
  op.bytes = total;
  issue_and_wait();
  return result;
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const MpiSession& session, std::string name, int color, int key,
                                                    Stream& stream, const MpiLimits& limits) {
  const StallMonitor::Inside inside(session.stalls(), "making a group");
  auto queue = std::make_shared<TransferQueue>(std::move(name), color, key, limits, stream, session.stalls());
  if (queue->group().size() > 1) return std::make_unique<MpiCommunicator>(std::move(queue));
  queue->close(true);
  return make_single_communicator(queue->name());
}

}  // namespace upcycle
