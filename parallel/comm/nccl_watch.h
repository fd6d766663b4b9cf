#pragma once
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>
#include <vector>

#include "core/device.h"
#include "parallel/comm/nccl_group.h"
#include "parallel/comm/stall_monitor.h"

namespace upcycle {

// Detects NCCL operations that never end: waits of the host poll it (attach). An operation that failed, or that waits
// for other ranks longer than the time-out, ends the job with the summary of who waits where (stall_monitor.h). If the
// host never reaches a wait because a launch does not return, the monitor's thread ends this process.
class NcclWatch final : public Progress {
 public:
  explicit NcclWatch(StallMonitor& monitor);
  ~NcclWatch() override;
  NcclWatch(const NcclWatch&) = delete;
  NcclWatch& operator=(const NcclWatch&) = delete;

  void add(NcclGroup& group);
  void remove(NcclGroup& group);
  std::uint64_t next_order();  // the next call's number, over all groups

  StallMonitor& monitor() const { return monitor_; }
  // Waits for an event of this rank's GPU.
  void wait_for(cudaEvent_t event);

  void poll() override;
  void finish(std::uint64_t) override {}  // it has no points to wait for
  void wait_begins() override { waits_ = true; }
  void wait_ends() override;

 private:
  using Clock = std::chrono::steady_clock;
  void check(NcclGroup& group);
  std::pair<const NcclGroup*, const NcclGroup::Call*> oldest_waiting() const;
  std::string stuck(double seconds);

  StallMonitor& monitor_;
  int device_ = 0;
  std::mutex mutex_;  // of the list, for the monitor's thread
  std::vector<NcclGroup*> groups_;
  std::uint64_t order_ = 0;
  bool waits_ = false;  // for work on the GPU
  Clock::time_point last_look_{};
  std::optional<StallMonitor::Inside> inside_;  // since the operation began to wait
  std::uint64_t inside_order_ = 0;              // which one

  // Of the monitor's thread, which watches the waiting operation while the main thread gives no sign of progress.
  std::atomic<std::uint64_t> signs_ = 0;
  std::uint64_t seen_signs_ = 0, seen_order_ = 0;
  Clock::time_point quiet_since_{}, waiting_since_{};
};

}  // namespace upcycle
