#include "parallel/comm/comm_nccl.h"

#include <array>
#include <bit>
#include <cstdlib>
#include <exception>
#include <sstream>

#include "core/abort.h"
#include "core/check.h"
#include "core/flight_record.h"
#include "core/trace.h"
#include "parallel/comm/collective_checks.h"
#include "parallel/comm/comm_mpi.h"
#include "parallel/comm/host_group.h"
#include "parallel/comm/nccl_error.h"
#include "parallel/comm/nccl_group.h"
#include "parallel/comm/nccl_watch.h"
#include "parallel/comm/single_communicator.h"

namespace upcycle {
namespace {

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::F32:
      return ncclFloat32;
    case DType::BF16:
      return ncclBfloat16;
    case DType::F64:
      return ncclFloat64;
    default:
      break;
  }
  UPCYCLE_CHECK(false, "{} is not summed", name_of(dtype));
}

// What all groups of a mesh share; the last of them ends it.
struct NcclContext {
  NcclContext(const MpiSession& session_, Device& device_, Stream& compute_)
      : session(session_), device(device_), compute(compute_), watch(session_.stalls()) {
    compute.attach(watch);
    host_stream->attach(watch);
    set_abort_cleanup(&abort_nccl_groups);
  }
  ~NcclContext() {
    host_stream->detach(watch);
    compute.detach(watch);
  }
  NcclContext(const NcclContext&) = delete;
  NcclContext& operator=(const NcclContext&) = delete;

  const MpiSession& session;
  Device& device;
  Stream& compute;
  NcclWatch watch;
  std::unique_ptr<Device> host = make_cpu_device();
  std::unique_ptr<Stream> host_stream = host->make_stream();
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::shared_ptr<NcclContext> context, std::unique_ptr<Communicator> host)
      : context_(std::move(context)), host_(std::move(host)) {}
  ~NcclCommunicator() override;

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  const std::string& name() const override { return host_->name(); }

  Event all_reduce(const Tensor& data) override;
  Event reduce_scatter(const Tensor& out, const Tensor& in) override;
  Event all_gather(const Tensor& out, const Tensor& in) override;
  Event all_to_all_v(const Tensor& out, std::span<const std::int64_t> recv_counts, const Tensor& in,
                     std::span<const std::int64_t> send_counts) override;
  void barrier() override { host_->barrier(); }
  double max_of(double value) override { return host_->max_of(value); }
  double sum_of(double value) override { return host_->sum_of(value); }
  std::string broadcast_text(const std::string& text, int root) override { return host_->broadcast_text(text, root); }
  std::string gather_text(const std::string& text) override { return host_->gather_text(text); }

 private:
  // The group's NCCL communicator, made by the first call that moves anything: it takes memory on the GPU, and not
  // every layout and model has tensors for every group. A collective call.
  NcclGroup& group();
  // Returns when all ranks of the group have reached this call. In the first call that uses an algorithm NCCL connects
  // the ranks and blocks the host, which can not report then for whom it waits; so it waits here before the group's
  // first call of a kind and size (in powers of two, by which NCCL chooses).
  void meet(Collective collective, std::size_t bytes);
  // Runs `call(communicator, stream)` after the work issued to the compute stream so far. `bytes`: the same on all
  // ranks; 0 if no rank has anything to move. `concerns` false: this rank has nothing to move.
  template <class Call>
  Event issue(Collective collective, std::size_t given, std::size_t bytes, bool concerns, Call call);
  void exchange(const Tensor& out, std::span<const std::int64_t> recv_counts, const Tensor& in,
                std::span<const std::int64_t> send_counts, ncclComm_t comm, cudaStream_t stream);

  std::shared_ptr<NcclContext> context_;
  std::unique_ptr<Communicator> host_;
  std::unique_ptr<NcclGroup> group_;
  std::array<std::uint64_t, kCollectiveNames.size()> met_{};  // a bit a size
  std::uint64_t sequence_ = 0;
};

// Leaving a group is collective: while an exception unwinds this rank the others may be anywhere.
NcclCommunicator::~NcclCommunicator() {
  if (group_ == nullptr) return;
  try {
    group_->close(std::uncaught_exceptions() == 0);
  } catch (const std::exception& e) {
    abort_job(e.what());
  }
}

std::vector<int> world_ranks_of(Communicator& group, const MpiSession& session) {
  std::istringstream text(group.gather_text(fmt::format("{} ", session.rank())));
  std::vector<int> ranks;
  for (int r = 0; text >> r;) ranks.push_back(r);
  return ranks;
}

// The first rank's, on all.
ncclUniqueId agree_on_id(Communicator& group) {
  ncclUniqueId id{};
  if (group.rank() == 0) UPCYCLE_NCCL(ncclGetUniqueId(&id));
  const std::string bytes = group.broadcast_text(std::string(id.internal, sizeof(id.internal)), 0);
  bytes.copy(id.internal, sizeof(id.internal));
  return id;
}

NcclGroup& NcclCommunicator::group() {
  if (group_ == nullptr)
    group_ = NcclGroup::make(name(), world_ranks_of(*host_, context_->session), rank(), agree_on_id(*host_),
                             context_->device, context_->watch);
  return *group_;
}

void NcclCommunicator::meet(Collective collective, std::size_t bytes) {
  std::uint64_t& met = met_[static_cast<std::size_t>(collective)];
  const std::uint64_t size = std::bit_floor(std::uint64_t{bytes});
  if ((met & size) == 0) host_->barrier();
  met |= size;
}

template <class Call>
Event NcclCommunicator::issue(Collective collective, std::size_t given, std::size_t bytes, bool concerns, Call call) {
  if (bytes > 0) meet(collective, bytes);
  NcclGroup* const g = bytes > 0 ? &group() : group_.get();
  const std::uint64_t flight = record_collective(name(), ++sequence_, name_of(collective), given);
  if (g == nullptr) {
    flight_ended(flight);
    return {};
  }
  const WorkCost cost{0, static_cast<double>(given)};
  const TraceRange range(g->issue_name(collective), cost);
  if (bytes == 0 || !concerns) {
    flight_ended(flight);
    return g->stream().record();  // behind the calls before it
  }
  g->begin(collective, sequence_, given, flight, context_->compute.record());
  const TraceWork work(g->stream(), g->issue_name(collective), cost);  // from here: not the wait for its inputs
  const StallMonitor::Inside inside(context_->session.stalls(), "starting a collective", "NCCL");
  call(g->comm(), g->native());
  return g->end();
}

Event NcclCommunicator::all_reduce(const Tensor& data) {
  check_all_reduce(*this, data);
  const auto n = static_cast<std::size_t>(data.size());
  return issue(Collective::AllReduce, data.bytes(), data.bytes(), true, [&](ncclComm_t comm, cudaStream_t stream) {
    UPCYCLE_NCCL(ncclAllReduce(data.data, data.data, n, type_of(data.dtype), ncclSum, comm, stream));
  });
}

Event NcclCommunicator::reduce_scatter(const Tensor& out, const Tensor& in) {
  check_reduce_scatter(*this, out, in);
  const auto n = static_cast<std::size_t>(out.size());
  return issue(Collective::ReduceScatter, in.bytes(), in.bytes(), true, [&](ncclComm_t comm, cudaStream_t stream) {
    UPCYCLE_NCCL(ncclReduceScatter(in.data, out.data, n, type_of(in.dtype), ncclSum, comm, stream));
  });
}

// Data that is not summed moves as bytes.
Event NcclCommunicator::all_gather(const Tensor& out, const Tensor& in) {
  check_all_gather(*this, out, in);
  return issue(Collective::AllGather, in.bytes(), in.bytes(), true, [&](ncclComm_t comm, cudaStream_t stream) {
    UPCYCLE_NCCL(ncclAllGather(in.data, out.data, in.bytes(), ncclInt8, comm, stream));
  });
}

Event NcclCommunicator::all_to_all_v(const Tensor& out, std::span<const std::int64_t> recv_counts, const Tensor& in,
                                     std::span<const std::int64_t> send_counts) {
  check_all_to_all_v(*this, out, recv_counts, in, send_counts);
  std::int64_t sent = 0, received = 0;
  for (std::size_t r = 0; r < send_counts.size(); ++r) sent += send_counts[r], received += recv_counts[r];
  const std::size_t row = static_cast<std::size_t>(in.columns()) * size_of(in.dtype);
  return issue(
      Collective::AllToAllV, static_cast<std::size_t>(sent) * row, row, sent > 0 || received > 0,
      [&](ncclComm_t comm, cudaStream_t stream) { exchange(out, recv_counts, in, send_counts, comm, stream); });
}

// One message for each pair of ranks that have rows for each other, all of them at once.
void NcclCommunicator::exchange(const Tensor& out, std::span<const std::int64_t> recv_counts, const Tensor& in,
                                std::span<const std::int64_t> send_counts, ncclComm_t comm, cudaStream_t stream) {
  const std::size_t row = static_cast<std::size_t>(in.columns()) * size_of(in.dtype);
  const char* from = static_cast<const char*>(in.data);
  char* to = static_cast<char*>(out.data);
  UPCYCLE_NCCL(ncclGroupStart());
  for (int r = 0; r < size(); ++r) {
    const std::size_t sends = static_cast<std::size_t>(send_counts[static_cast<std::size_t>(r)]) * row,
                      receives = static_cast<std::size_t>(recv_counts[static_cast<std::size_t>(r)]) * row;
    if (r == rank()) {
      context_->device.copy(group_->stream(), CopyKind::OnDevice, to, from, sends);
    } else {
      if (sends > 0) UPCYCLE_NCCL(ncclSend(from, sends, ncclInt8, r, comm, stream));
      if (receives > 0) UPCYCLE_NCCL(ncclRecv(to, receives, ncclInt8, r, comm, stream));
    }
    from += sends;
    to += receives;
  }
  UPCYCLE_NCCL(ncclGroupEnd());
}

std::shared_ptr<Communicator> make_group(const std::shared_ptr<NcclContext>& context, const char* name, int color) {
  const MpiSession& session = context->session;
  auto host = make_mpi_communicator(session, name, color, session.rank(), *context->host_stream);
  if (host->size() == 1) return make_single_communicator(name, context->device, context->compute);
  return std::make_shared<NcclCommunicator>(context, std::move(host));
}

}  // namespace

Mesh make_nccl_mesh(const MpiSession& session, const Layout& layout, Device& device, Stream& compute) {
  UPCYCLE_CHECK(layout.world == session.size(), "a layout of {} ranks on {}", layout.world, session.size());
  UPCYCLE_CHECK(compute.kind() == DeviceKind::Cuda, "NCCL communicators serve CUDA streams only");
  // Operations of different groups then start in the order in which the host issued them, which is one order on all
  // ranks: two that wait for each other on two GPUs can not occur.
  constexpr int kLeastVersion = 22600;
  int version = 0;
  UPCYCLE_NCCL(ncclGetVersion(&version));
  UPCYCLE_CHECK(version >= kLeastVersion, "NCCL is version {}, at least {} needed: it keeps the order of groups",
                version, kLeastVersion);
  UPCYCLE_CHECK(setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 0) == 0, "setenv failed");
  const auto context = std::make_shared<NcclContext>(session, device, compute);
  const int rank = session.rank();
  Mesh mesh = make_mesh_of_groups(layout, rank, coordinates_of(layout, rank),
                                  [&](const char* name, int color) { return make_group(context, name, color); });
  auto host = make_host_group(session, *context->host_stream);
  mesh.host = {host.get(), [context, host](HostGroup*) mutable { host.reset(); }};  // before the context's stream ends
  return mesh;
}

}  // namespace upcycle
