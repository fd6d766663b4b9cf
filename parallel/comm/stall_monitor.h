#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace upcycle {

// The call that a rank waits in.
struct Waiting {
  const char* group;
  const char* op;
  std::uint64_t sequence;
  std::size_t bytes;                 // that this rank gave
  std::span<const int> world_ranks;  // of the group
};

// Ends the job when a rank waits longer than the time-out without a sign of progress from those that it waits for, and
// reports who did not arrive. Signs are beats (heartbeats.h) of ranks that read, hash or delete files
// (core/progress.h).
//
// A rank whose wait has timed out tells the two reporters, the first and the last rank of the world (either may be the
// missing one). A reporter asks all ranks and collects for a few seconds who waits where (ranks answer only while they
// wait). If all missing ranks are at work it tells the others to go on; otherwise it prints one summary and ends the
// job, the last rank only if the first is missing. If no reporter answers or is at work itself, each rank reports for
// itself. Beside the line it writes a report of all ranks that can be known of: each one's state, place, last
// collectives and stack (host_records.h). Each host's are described by one of its ranks that waits, on a reporter's
// demand. If the main thread is stuck inside an MPI call and can do none of this, a watchdog thread ends the process
// without MPI.
class StallMonitor {
 public:
  StallMonitor();  // a call of all ranks of the world, after MPI has started
  ~StallMonitor();
  StallMonitor(const StallMonitor&) = delete;
  StallMonitor& operator=(const StallMonitor&) = delete;

  void set_timeout(double seconds);
  // Where reports go, as timeout_report.txt; "": to standard error.
  void set_report_folder(const std::string& folder);

  // The main thread is inside MPI (or another library), or waits for other ranks, for the lifetime of this object. May
  // be nested: the outermost counts.
  class Inside {
   public:
    Inside(StallMonitor& monitor, const char* what, const char* library = "MPI");
    ~Inside();
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;

   private:
    StallMonitor& monitor_;
    bool outermost_;
  };

  // Called again and again by a wait that began at the outermost Inside. Does not return once the time-out has passed,
  // here or (on a reporter) at any rank.
  void look(const Waiting& waiting);

  // Ends the job in the same way, at once, because this rank's transfer has failed.
  [[noreturn]] void fail(const Waiting& waiting, const std::string& why);

  // For a main thread that a stalled transfer blocks elsewhere: in a launch on a GPU whose queue is full. The watchdog
  // thread polls `stuck(seconds)` and ends the process when it returns anything but "". Null removes the owner's probe.
  void set_probe(const void* owner, std::function<std::string(double seconds)> stuck);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace upcycle
