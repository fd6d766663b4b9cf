#pragma once
#include <cstddef>
#include <memory>
#include <vector>

#include "core/device.h"
#include "parallel/comm/mpi_group.h"
#include "parallel/comm/operation.h"

namespace upcycle {

// How calls are split. Tests make these small; results do not depend on them.
struct MpiLimits {
  std::size_t piece_bytes = std::size_t{1} << 20;     // of one rank's data in a round of a reduction
  std::size_t scratch_bytes = std::size_t{64} << 20;  // at most, of all pieces that a rank receives in a round
  std::size_t message_bytes = std::size_t{1} << 30;   // of one rank's data in one MPI call of a gather or broadcast
  std::size_t small_bytes = 4096;                     // up to here a reduction takes one exchange rather than two
};

// Bytes of scratch of a group of `size` ranks.
std::size_t reduction_scratch_bytes(int size, const MpiLimits& limits = {});

// Splits an operation into rounds of one MPI call each, and sums in rank order after each. One operation at a time.
class Rounds {
 public:
  Rounds(MpiGroup& group, const MpiLimits& limits);
  ~Rounds();
  Rounds(const Rounds&) = delete;
  Rounds& operator=(const Rounds&) = delete;

  std::size_t small_bytes() const { return limits_.small_bytes; }
  bool start(Operation& op);   // the operation's next call; false: it is done
  void finish(Operation& op);  // after that call has ended
  void abandon();              // a call may still write to the scratch: it is never given back

 private:
  std::byte* piece(int r) const { return scratch_ + static_cast<std::size_t>(r) * piece_; }  // where r's data arrives
  void start_shares(Operation& op);
  void start_part(Operation& op);
  void start_rows(Operation& op);

  MpiGroup& group_;
  MpiLimits limits_;
  std::unique_ptr<Device> host_ = make_cpu_device();
  std::size_t piece_;
  std::byte* scratch_ = nullptr;  // (size, piece_)
  // One element per rank; allocated once, so that calls allocate nothing.
  std::vector<int> send_counts_, send_offsets_, recv_counts_, recv_offsets_;
  std::vector<const void*> sources_;
};

}  // namespace upcycle
