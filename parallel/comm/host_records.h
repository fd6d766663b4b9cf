#pragma once
#include <mpi.h>

#include <span>
#include <string>
#include <vector>

#include "core/flight_record.h"
#include "parallel/comm/timeout_report.h"

namespace upcycle {

// The flight records of this host's ranks, mapped at the start: they can be read whatever their processes do, even when
// they are gone. Ranks whose /proc is not seen from here (each in its own container) are left out.
class HostRecords {
 public:
  HostRecords(MPI_Comm comm, std::span<const std::string> hosts);  // a call of all ranks; hosts: one name per rank
  ~HostRecords();
  HostRecords(const HostRecords&) = delete;
  HostRecords& operator=(const HostRecords&) = delete;

  // Asks each rank's main thread for its stack, waits at most that long for the answers, and says what each is at and
  // did last. No MPI: any thread may call it, one at a time.
  std::vector<RankSection> describe(double seconds) const;

 private:
  struct Seen {
    int rank, process;
    FlightRecord* record;
    bool mapped;  // here; this process's own is not
  };
  std::vector<Seen> seen_;
};

}  // namespace upcycle
