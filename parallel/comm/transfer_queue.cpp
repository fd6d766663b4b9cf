#include "parallel/comm/transfer_queue.h"

#include <chrono>

#include "core/check.h"
#include "core/error.h"
#include "core/flight_record.h"
#include "core/trace.h"
#include "parallel/comm/late_looks.h"

namespace upcycle {

TransferQueue::TransferQueue(std::string name, int color, int key, const MpiLimits& limits, Stream& stream,
                             StallMonitor& monitor)
    : name_(std::move(name)),
      group_(color, key),
      rounds_(group_, limits),
      stream_(stream),
      monitor_(monitor),
      ring_(kLength),
      counts_(kLength * 2 * group_.world_ranks().size()) {
  for (std::size_t i = 0; i < kCollectiveNames.size(); ++i) {
    issue_names_[i] = name_ + " " + kCollectiveNames[i];
    wait_names_[i] = "wait " + issue_names_[i];
  }
  stream_.attach(*this);
}

Operation& TransferQueue::next(Collective collective, std::uint64_t sequence, std::size_t given) {
  UPCYCLE_CHECK(open_, "{} {} after the end of its group", name_, name_of(collective));
  if (issued_ - completed_ == kLength) finish(completed_ + 1);
  const std::size_t slot = issued_ % kLength, size = group_.world_ranks().size();
  Operation& op = ring_[slot];
  op = {};
  op.send_counts = {counts_.data() + slot * 2 * size, size};
  op.recv_counts = {counts_.data() + (slot * 2 + 1) * size, size};
  op.collective = collective;
  op.sequence = sequence;
  op.given = given;
  return op;
}

std::uint64_t TransferQueue::push() {
  const StallMonitor::Inside inside(monitor_, "starting a collective");
  const std::uint64_t ticket = ++issued_;
  if (completed_ + 1 == ticket) advance();
  return ticket;
}

void TransferQueue::advance() {
  UPCYCLE_CHECK(!broken_, "{}: an earlier call of this group failed", name_);
  while (completed_ != issued_) {
    Operation& op = at(completed_ + 1);
    try {
      if (started_) {
        if (!group_.test()) return;
        started_ = false;
        rounds_.finish(op);
      }
      started_ = rounds_.start(op);
    } catch (const Error& e) {
      broken_ = true;
      throw Error(fmt::format("{} in {} #{}", e.what(), issue_name(op.collective), op.sequence));
    }
    if (started_) continue;
    flight_ended(op.flight);
    ++completed_;
  }
}

void TransferQueue::poll() {
  if (completed_ != issued_ && !broken_) advance();
}

void TransferQueue::finish(std::uint64_t ticket) {
  if (done(ticket)) return;
  UPCYCLE_CHECK(open_, "{}: waiting for a transfer whose group has ended", name_);
  const StallMonitor::Inside inside(monitor_, "waiting in a collective");
  advance();
  if (done(ticket)) return;
  const Operation& op = at(ticket);
  const Collective collective = op.collective;
  const Waiting waiting{name_.c_str(), name_of(collective), op.sequence, op.given, group_.world_ranks()};
  const TraceRange range(wait_names_[static_cast<std::size_t>(collective)]);
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  auto looked = begin;
  while (true) {
    UPCYCLE_CHECK(!broken_, "{}: an earlier call of this group failed", name_);
    const auto now = Clock::now();
    stream_.poll();
    if (done(ticket)) break;
    looked = now;
    monitor_.look(waiting);
  }
  const auto end = Clock::now();
  record_wait(name_, name_of(collective), std::chrono::duration<double>(end - begin).count());
  record_late_look(std::chrono::duration<double>(end - looked).count());
}

void TransferQueue::close(bool drain) {
  const bool leave = drain && !broken_;
  if (leave) finish(issued_);
  stream_.detach(*this);
  open_ = false;
  if (!leave && completed_ != issued_) rounds_.abandon();
  if (leave) {
    const StallMonitor::Inside inside(monitor_, "leaving a group");
    group_.free();
  }
}

}  // namespace upcycle
