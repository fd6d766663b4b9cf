#pragma once
#include <mpi.h>

#include <chrono>
#include <vector>

namespace upcycle {

// Ranks that read, hash or delete files tell all others so periodically. A beat means only that its rank has made
// progress since the last one. Main thread only.
class Heartbeats {
 public:
  using Clock = std::chrono::steady_clock;
  Heartbeats(MPI_Comm comm, int tag);  // a communicator and tag that nobody else uses

  // Tells the others that this rank has made progress, at most once per interval(timeout) seconds.
  void beat(double timeout);
  // Receives the beats that have arrived; `forget`: then discards all, as older than this rank's wait.
  void hear(bool forget);
  // Whether that rank's last beat is recent enough for the time-out.
  bool working(int rank, double timeout) const;
  Clock::time_point latest() const;  // the last beat of any rank; the epoch where there was none

  static double interval(double timeout);

 private:
  MPI_Comm comm_;
  int tag_, rank_ = 0;
  Clock::time_point sent_{};
  std::vector<Clock::time_point> heard_;  // by rank
  std::vector<MPI_Request> sends_;        // by rank; at most one beat is under way to each
};

}  // namespace upcycle
