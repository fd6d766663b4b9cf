#include "parallel/comm/nccl_watch.h"

#include <fmt/core.h>

#include <thread>

#include "core/cuda_error.h"
#include "parallel/comm/nccl_error.h"
#include "parallel/comm/nccl_group.h"

namespace upcycle {
namespace {

constexpr std::chrono::milliseconds kLookEvery{1};

ncclResult_t state_of(ncclComm_t comm) {
  ncclResult_t state = ncclSuccess;
  UPCYCLE_NCCL(ncclCommGetAsyncError(comm, &state));
  return state;
}

[[noreturn]] void fail(StallMonitor& monitor, const Waiting& w, ncclResult_t state) {
  monitor.fail(w, fmt::format("{} {} #{}: NCCL: {} ({})", w.group, w.op, w.sequence, ncclGetErrorString(state),
                              ncclGetLastError(nullptr)));
}

}  // namespace

NcclWatch::NcclWatch(StallMonitor& monitor) : monitor_(monitor) {
  UPCYCLE_CUDA(cudaGetDevice(&device_));
  monitor_.set_probe(this, [this](double seconds) { return stuck(seconds); });
}

NcclWatch::~NcclWatch() { monitor_.set_probe(this, nullptr); }

void NcclWatch::add(NcclGroup& group) {
  const std::lock_guard lock(mutex_);
  groups_.push_back(&group);
}

void NcclWatch::remove(NcclGroup& group) {
  const std::lock_guard lock(mutex_);
  std::erase(groups_, &group);
}

std::uint64_t NcclWatch::next_order() {
  ++signs_;
  return ++order_;
}

void NcclWatch::wait_for(cudaEvent_t event) {
  wait_begins();
  while (!is_reached(event)) {
    poll();
    std::this_thread::yield();
  }
  wait_ends();
  UPCYCLE_CUDA(cudaEventQuery(event));
}

void NcclWatch::check(NcclGroup& group) {
  const ncclResult_t state = state_of(group.comm());
  if (state == ncclSuccess) return;
  Waiting w = group.describe({});
  w.op = "between its calls";
  const NcclGroup::Call* call = group.waiting();
  fail(monitor_, call != nullptr ? group.describe(*call) : w, state);
}

std::pair<const NcclGroup*, const NcclGroup::Call*> NcclWatch::oldest_waiting() const {
  std::pair<const NcclGroup*, const NcclGroup::Call*> oldest{};
  for (const NcclGroup* group : groups_) {
    const NcclGroup::Call* call = group->waiting();
    if (call != nullptr && (oldest.second == nullptr || call->order < oldest.second->order)) oldest = {group, call};
  }
  return oldest;
}

void NcclWatch::poll() {
  const auto now = Clock::now();
  if (now - last_look_ < kLookEvery) return;
  last_look_ = now;
  ++signs_;
  for (NcclGroup* group : groups_) check(*group);
  if (!waits_) return;  // a wait in MPI, which checks for itself
  for (NcclGroup* group : groups_) group->forget_done();
  const auto [whose, oldest] = oldest_waiting();
  if (oldest == nullptr) return inside_.reset();  // the GPU computes
  if (!inside_ || inside_order_ != oldest->order) {
    inside_.reset();
    inside_.emplace(monitor_, "waiting in a collective");
    inside_order_ = oldest->order;
  }
  monitor_.look(whose->describe(*oldest));
}

// The GPU is queried only if the main thread has not polled for a long time: it may be computing, or writing files.
std::string NcclWatch::stuck(double seconds) {
  const auto now = Clock::now();
  const auto longer = [&](Clock::time_point since) {
    return std::chrono::duration<double>(now - since).count() > seconds;
  };
  if (const std::uint64_t signs = signs_; signs != seen_signs_ || quiet_since_ == Clock::time_point{}) {
    seen_signs_ = signs;
    seen_order_ = 0;
    quiet_since_ = now;
  }
  if (!longer(quiet_since_)) return "";
  cudaSetDevice(device_);  // for this thread, which otherwise would create a context on the first GPU
  const std::lock_guard lock(mutex_);
  const auto [whose, call] = oldest_waiting();
  if (call == nullptr || call->order != seen_order_) {
    seen_order_ = call == nullptr ? 0 : call->order;
    waiting_since_ = now;
  }
  if (call == nullptr || !longer(waiting_since_)) return "";
  const Waiting w = whose->describe(*call);
  return fmt::format("{} {} #{} waits for other ranks for {:.0f} s and more while the host stands in another call",
                     w.group, w.op, w.sequence, seconds);
}

void NcclWatch::wait_ends() {
  waits_ = false;
  inside_.reset();
}

}  // namespace upcycle
