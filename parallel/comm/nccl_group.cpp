#include "parallel/comm/nccl_group.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "core/check.h"
#include "core/cuda_error.h"
#include "core/flight_record.h"
#include "core/trace.h"
#include "parallel/comm/nccl_error.h"
#include "parallel/comm/nccl_watch.h"

namespace upcycle {
namespace {

constexpr std::chrono::seconds kAbortSeconds{3};

// What abort_nccl_groups takes down; never destroyed, because a job may be ended during static destruction.
struct Live {
  std::mutex mutex;
  std::vector<ncclComm_t> comms;
};
Live& live() {
  static auto* l = new Live;
  return *l;
}

}  // namespace

NcclGroup::NcclGroup(std::string name, std::vector<int> world_ranks, int rank, Device& device, NcclWatch& watch)
    : name_(std::move(name)),
      world_ranks_(std::move(world_ranks)),
      rank_(rank),
      watch_(watch),
      stream_(device.make_stream()),
      calls_(kLength) {
  for (std::size_t i = 0; i < kCollectiveNames.size(); ++i) issue_names_[i] = name_ + " " + kCollectiveNames[i];
  for (Call& call : calls_)
    for (cudaEvent_t* e : {&call.ready, &call.done}) UPCYCLE_CUDA(cudaEventCreate(e));  // they time transfers
}

NcclGroup::~NcclGroup() = default;

std::unique_ptr<NcclGroup> NcclGroup::make(std::string name, std::vector<int> world_ranks, int rank,
                                           const ncclUniqueId& id, Device& device, NcclWatch& watch) {
  std::unique_ptr<NcclGroup> group(new NcclGroup(std::move(name), std::move(world_ranks), rank, device, watch));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 1;
  config.commName = group->name_.c_str();
  const StallMonitor::Inside inside(watch.monitor(), "making a group", "NCCL");
  UPCYCLE_NCCL(ncclCommInitRankConfig(&group->comm_, group->size(), id, rank, &config));
  group->start();
  return group;
}

void NcclGroup::start() {
  {
    const std::lock_guard lock(live().mutex);
    live().comms.push_back(comm_);
  }
  int ranks = 0, own = 0;
  UPCYCLE_NCCL(ncclCommCount(comm_, &ranks));
  UPCYCLE_NCCL(ncclCommUserRank(comm_, &own));
  UPCYCLE_CHECK(ranks == size() && own == rank_, "NCCL's group {} has rank {} of {}, expected {} of {}", name_, own,
                ranks, rank_, size());
  watch_.add(*this);
  stream_->attach(watch_);
}

void NcclGroup::begin(Collective collective, std::uint64_t sequence, std::size_t given, std::uint64_t flight,
                      const Event& after) {
  if (issued_ - completed_ == kLength) {
    watch_.wait_for(at(completed_).done);
    forget_done();
  }
  Call& call = at(issued_);
  call.collective = collective;
  call.sequence = sequence;
  call.given = given;
  call.order = watch_.next_order();
  call.flight = flight;
  stream_->wait(after);
  UPCYCLE_CUDA(cudaEventRecord(call.ready, native()));
}

Event NcclGroup::end() {
  Call& call = at(issued_);
  UPCYCLE_CUDA(cudaEventRecord(call.done, native()));
  ++issued_;
  return stream_->record();
}

void NcclGroup::forget_done() {
  while (completed_ != issued_ && is_reached(at(completed_).done)) {
    const Call& call = at(completed_);
    flight_ended(call.flight);
    float ms = 0;
    UPCYCLE_CUDA(cudaEventElapsedTime(&ms, call.ready, call.done));
    record_transfer(ms / 1e3);
    ++completed_;
  }
}

const NcclGroup::Call* NcclGroup::waiting() const {
  for (std::uint64_t c = completed_; c != issued_; ++c) {
    if (is_reached(at(c).done)) continue;
    return is_reached(at(c).ready) ? &at(c) : nullptr;
  }
  return nullptr;
}

Waiting NcclGroup::describe(const Call& call) const {
  return {name_.c_str(), name_of(call.collective), call.sequence, call.given, world_ranks_};
}

void NcclGroup::close(bool drain) {
  if (!drain) {
    // Its operations may never end, and destroying the stream would wait for them: they end with the process.
    watch_.remove(*this);
    stream_->detach(watch_);
    static_cast<void>(stream_.release());
    return;
  }
  stream_->synchronize();
  const StallMonitor::Inside inside(watch_.monitor(), "leaving a group", "NCCL");
  UPCYCLE_NCCL(ncclCommFinalize(comm_));
  watch_.remove(*this);
  stream_->detach(watch_);
  {
    const std::lock_guard lock(live().mutex);
    std::erase(live().comms, comm_);
  }
  UPCYCLE_NCCL(ncclCommDestroy(comm_));
  for (const Call& call : calls_)
    for (cudaEvent_t e : {call.ready, call.done}) UPCYCLE_CUDA(cudaEventDestroy(e));
}

void abort_nccl_groups() {
  static std::atomic<bool> done{false};
  std::vector<ncclComm_t> comms;
  {
    const std::lock_guard lock(live().mutex);
    comms.swap(live().comms);
  }
  if (comms.empty()) return;
  std::thread([comms] {
    for (ncclComm_t comm : comms) ncclCommAbort(comm);
    done = true;
  }).detach();
  const auto end = std::chrono::steady_clock::now() + kAbortSeconds;
  while (!done && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace upcycle
