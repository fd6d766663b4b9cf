#include "parallel/comm/heartbeats.h"

#include <algorithm>

#include "parallel/comm/mpi_error.h"

namespace upcycle {
namespace {

double seconds(Heartbeats::Clock::duration d) { return std::chrono::duration<double>(d).count(); }

}  // namespace

Heartbeats::Heartbeats(MPI_Comm comm, int tag) : comm_(comm), tag_(tag) {
  int size = 0;
  UPCYCLE_MPI(MPI_Comm_rank(comm_, &rank_));
  UPCYCLE_MPI(MPI_Comm_size(comm_, &size));
  heard_.resize(static_cast<std::size_t>(size));
  sends_.resize(static_cast<std::size_t>(size), MPI_REQUEST_NULL);
}

double Heartbeats::interval(double timeout) { return std::clamp(timeout / 20, 0.05, 30.0); }

void Heartbeats::beat(double timeout) {
  const auto now = Clock::now();
  if (seconds(now - sent_) < interval(timeout)) return;
  sent_ = now;
  for (int r = 0; r < static_cast<int>(sends_.size()); ++r) {
    if (r == rank_) continue;
    MPI_Request& send = sends_[static_cast<std::size_t>(r)];
    int ended = 1;
    UPCYCLE_MPI(MPI_Test(&send, &ended, MPI_STATUS_IGNORE));
    if (ended != 0) UPCYCLE_MPI(MPI_Isend(nullptr, 0, MPI_BYTE, r, tag_, comm_, &send));
  }
}

void Heartbeats::hear(bool forget) {
  for (;;) {
    int came = 0;
    MPI_Status status;
    UPCYCLE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, tag_, comm_, &came, &status));
    if (came == 0) break;
    UPCYCLE_MPI(MPI_Recv(nullptr, 0, MPI_BYTE, status.MPI_SOURCE, tag_, comm_, MPI_STATUS_IGNORE));
    heard_[static_cast<std::size_t>(status.MPI_SOURCE)] = Clock::now();
  }
  if (forget) std::fill(heard_.begin(), heard_.end(), Clock::time_point{});
}

bool Heartbeats::working(int rank, double timeout) const {
  const Clock::time_point last = heard_[static_cast<std::size_t>(rank)];
  return last != Clock::time_point{} && seconds(Clock::now() - last) <= timeout + interval(timeout);
}

Heartbeats::Clock::time_point Heartbeats::latest() const { return *std::max_element(heard_.begin(), heard_.end()); }

}  // namespace upcycle
