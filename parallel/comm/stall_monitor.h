#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace upcycle {

// What a rank waits in.
struct Waiting {
  const char* group;
  const char* op;
  std::uint64_t sequence;
  std::size_t bytes;                 // that this rank gave
  std::span<const int> world_ranks;  // of the group
};

// Ends the job when a rank waits longer than the time-out without a sign of those that it waits for, and says who did
// not arrive. Signs are beats (heartbeats.h), which a rank that reads, hashes or deletes files gives (core/progress.h).
//
// A rank whose time is over tells the two reporters, the first and the last rank of the world (either may be the one
// that is missing). A reporter asks all ranks, hears for a few seconds who waits where (every rank answers while it
// waits, and only then). Where all that did not come are at work it tells the others to go on; else it prints one
// summary and ends the job, the last rank only where the first did not come. Where no reporter answers, nor is at work
// itself, each rank speaks for itself. A thread ends the process, without MPI, where the rank's main thread
// stands inside an MPI call and can do none of this.
class StallMonitor {
 public:
  StallMonitor();  // a call of all ranks of the world, after MPI has started
  ~StallMonitor();
  StallMonitor(const StallMonitor&) = delete;
  StallMonitor& operator=(const StallMonitor&) = delete;

  void set_timeout(double seconds);

  // The main thread is inside MPI (or another library), or waits for other ranks, for as long as this stands. May be
  // nested: the outermost counts.
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

  // Called again and again by a wait that began at the outermost Inside. Does not return once the time is over, here or
  // (on a reporter) at any rank.
  void look(const Waiting& waiting);

  // Ends the job in the same way because this rank's transfer has failed: says why at once.
  [[noreturn]] void fail(const Waiting& waiting, const std::string& why);

  // For a main thread that stands somewhere else for as long as a transfer does: in a launch on a GPU whose queue is
  // full. The thread that ends processes asks `stuck(seconds)` now and then, and ends this one where it says something
  // other than "". Null: no more of this owner.
  void set_probe(const void* owner, std::function<std::string(double seconds)> stuck);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace upcycle
