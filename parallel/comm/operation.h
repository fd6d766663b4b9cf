#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/dtype.h"

namespace upcycle {

// The calls of a Communicator, for the trace and for messages.
enum class Collective : std::uint8_t {
  AllReduce,
  ReduceScatter,
  AllGather,
  AllToAllV,
  Barrier,
  MaxOf,
  SumOf,
  BroadcastText,
  GatherText,
};
inline constexpr std::array kCollectiveNames = {"all_reduce",   "reduce_scatter", "all_gather",
                                                "all_to_all_v", "barrier",        "max_of",
                                                "sum_of",       "broadcast_text", "gather_text"};
inline const char* name_of(Collective c) { return kCollectiveNames[static_cast<std::size_t>(c)]; }

// How bytes move. A call is one of these, or two in a row.
enum class Movement : std::uint8_t {
  SmallAllReduce,  // everyone gets everything and adds it all up: one exchange rather than two
  AllReduce,
  ReduceScatter,
  AllGather,
  GatherV,  // parts of different lengths, recv_counts bytes each, into `out`
  AllToAllV,
  Broadcast,
  Barrier,
};

// One movement in a group's queue: what the caller asked for, and how far it is.
struct Operation {
  Movement movement{};
  std::byte* out = nullptr;
  const std::byte* in = nullptr;
  std::size_t bytes = 0;  // to move: of one rank's part, or of all of a broadcast or all-reduce; 0: nothing is sent
  DType dtype{};          // of what is summed
  int root = 0;
  std::size_t row_bytes = 0;                // AllToAllV: of one counted row
  std::span<int> send_counts, recv_counts;  // (size), memory of the queue

  std::size_t done = 0;    // bytes that have arrived (and been summed, in a reduction)
  std::size_t round = 0;   // bytes in flight
  bool gathering = false;  // AllReduce: the second half of a round

  // The call it belongs to, for messages.
  Collective collective{};
  std::uint64_t sequence = 0;
  std::size_t given = 0;     // bytes that this rank gives
  std::uint64_t flight = 0;  // its number in the flight record
};

}  // namespace upcycle
