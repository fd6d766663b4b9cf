#pragma once
#include <cuda_runtime.h>
#include <nccl.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/device.h"
#include "parallel/comm/operation.h"
#include "parallel/comm/stall_monitor.h"

namespace upcycle {

class NcclWatch;

// A group's NCCL communicator, the stream its calls run on, and which of them are in flight.
//
// The communicator is a blocking one: a call puts its work into the stream and returns. (For every call of a
// non-blocking one NCCL makes a thread and joins it: ncclGroupEndInternal in group.cc of NCCL 2.28.9.) The host blocks
// only where NCCL connects the ranks: when the communicator is made, and in calls that are the first to use an
// algorithm. NcclWatch detects operations that never end.
class NcclGroup {
 public:
  // The most calls in flight; beyond that, the next one waits for the oldest.
  static constexpr std::size_t kLength = 256;

  struct Call {
    Collective collective{};
    std::uint64_t sequence = 0;                   // of the group's collectives
    std::size_t given = 0;                        // bytes that this rank gives
    std::uint64_t order = 0;                      // over all groups
    std::uint64_t flight = 0;                     // its number in the flight record
    cudaEvent_t ready = nullptr, done = nullptr;  // its inputs on this rank are ready; it is done
  };

  // Every rank of the group calls this, with one id. `world_ranks`: of the group, in its order.
  static std::unique_ptr<NcclGroup> make(std::string name, std::vector<int> world_ranks, int rank,
                                         const ncclUniqueId& id, Device& device, NcclWatch& watch);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  const std::string& name() const { return name_; }
  int rank() const { return rank_; }
  int size() const { return static_cast<int>(world_ranks_.size()); }
  ncclComm_t comm() const { return comm_; }
  Stream& stream() { return *stream_; }
  cudaStream_t native() { return static_cast<cudaStream_t>(stream_->native()); }
  const std::string& issue_name(Collective c) const { return issue_names_[static_cast<std::size_t>(c)]; }

  // Around the NCCL calls of one collective, whose first work comes after `after`. end() returns the event of its
  // completion.
  void begin(Collective collective, std::uint64_t sequence, std::size_t given, std::uint64_t flight,
             const Event& after);
  Event end();

  // The oldest call that waits for other ranks; null where there is none. Any thread may ask.
  const Call* waiting() const;
  Waiting describe(const Call& call) const;

  // Drops finished calls from the front of those in flight.
  void forget_done();

  // Ends with all ranks, after the calls in flight; `drain` false: an exception is passing and the others may be
  // anywhere.
  void close(bool drain);

 private:
  NcclGroup(std::string name, std::vector<int> world_ranks, int rank, Device& device, NcclWatch& watch);
  void start();  // the communicator exists
  Call& at(std::uint64_t call) { return calls_[call % kLength]; }
  const Call& at(std::uint64_t call) const { return calls_[call % kLength]; }

  std::string name_;
  std::array<std::string, kCollectiveNames.size()> issue_names_;
  std::vector<int> world_ranks_;
  int rank_;
  NcclWatch& watch_;
  std::unique_ptr<Stream> stream_;
  ncclComm_t comm_ = nullptr;
  std::vector<Call> calls_;  // a ring
  std::atomic<std::uint64_t> issued_ = 0, completed_ = 0;
};

// Takes down every communicator of this process, so that the GPU is free of operations that would never end. Gives up
// after a few seconds: NCCL may wait for ranks that never arrive.
void abort_nccl_groups();

}  // namespace upcycle
