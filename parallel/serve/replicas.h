#pragma once
#include <deque>
#include <span>
#include <vector>

#include "parallel/serve/server.h"

namespace upcycle {

// The schedulers of all replicas (dp ranks), which step together: what the engine and its prediction have in common.
class Replicas {
 public:
  Replicas(int count, const SchedulerOptions& options);

  void add(Request request);  // to the replica with the least left to do
  bool cancel(std::int64_t id);
  bool busy() const;

  // Chooses every replica's part of the next step. Sets of the report what is known before the step is computed, and
  // empties the rest.
  void schedule(StepReport& report);
  std::span<const std::span<const ScheduledRows>> plans() const { return plans_; }  // by replica
  std::int64_t draws(std::size_t replica) const;                                    // tokens that its part draws
  // Replica `replica` drew these: they join their sequences and the report.
  void complete(std::size_t replica, std::span<const std::int32_t> drawn, StepReport& report);

 private:
  std::deque<Scheduler> schedulers_;
  std::vector<std::span<const ScheduledRows>> plans_;
};

}  // namespace upcycle
