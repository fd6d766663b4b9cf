#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/device.h"
#include "parallel/comm/operation.h"
#include "parallel/comm/rounds.h"
#include "parallel/comm/stall_monitor.h"

namespace upcycle {

// A group's operations, first in, first out: only the front one is in flight, so MPI sees the same calls in the same
// order on every rank. Polling the stream advances it. A rank that waits for one operation advances those of all groups
// on its stream: otherwise two ranks that wait in different groups would deadlock.
class TransferQueue final : public Progress {
 public:
  // The most operations in the queue; when it is full, the next one waits for the oldest. Every rank must therefore
  // issue in the same order over all groups, not only within each.
  static constexpr std::size_t kLength = 256;

  TransferQueue(std::string name, int color, int key, const MpiLimits& limits, Stream& stream, StallMonitor& monitor);

  const std::string& name() const { return name_; }
  MpiGroup& group() { return group_; }
  std::size_t small_bytes() const { return rounds_.small_bytes(); }
  const std::string& issue_name(Collective c) const { return issue_names_[static_cast<std::size_t>(c)]; }

  // A fresh operation with its own counts; push issues it (its first round starts at once if the queue is empty) and
  // returns its ticket.
  Operation& next(Collective collective, std::uint64_t sequence, std::size_t given);
  std::uint64_t push();
  void poll() override;
  void finish(std::uint64_t ticket) override;

  // Finishes the queue and leaves the group; `drain` false: an exception is passing and the other ranks may be
  // anywhere.
  void close(bool drain);

 private:
  Operation& at(std::uint64_t ticket) { return ring_[(ticket - 1) % kLength]; }
  void advance();
  bool done(std::uint64_t ticket) const { return ticket <= completed_; }

  std::string name_;
  std::array<std::string, kCollectiveNames.size()> issue_names_, wait_names_;  // "tp all_gather", "wait tp all_gather"
  MpiGroup group_;
  Rounds rounds_;
  Stream& stream_;
  StallMonitor& monitor_;
  std::vector<Operation> ring_;  // the operation with ticket t at (t - 1) mod kLength
  std::vector<int> counts_;      // (kLength, 2, size)
  std::uint64_t issued_ = 0, completed_ = 0;
  bool started_ = false;  // the front operation's call is in flight
  bool broken_ = false;   // a call failed: the group is unusable
  bool open_ = true;
};

}  // namespace upcycle
