#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "parallel/comm/communicator.h"
#include "parallel/comm/mesh.h"

// What mesh.cpp builds groups from; other code sees only Communicator.
namespace upcycle {

// A group of one, without MPI or NCCL: copies at most, of host memory, or of a device's on the stream.
std::unique_ptr<Communicator> make_single_communicator(std::string name);
std::unique_ptr<Communicator> make_single_communicator(std::string name, Device& device, Stream& stream);

// How a call is cut. Tests make these small; results do not depend on them.
struct MpiLimits {
  std::size_t piece_bytes = std::size_t{1} << 20;     // of one rank's data in a round of a reduction
  std::size_t scratch_bytes = std::size_t{64} << 20;  // at most, of all pieces that a rank receives in a round
  std::size_t message_bytes = std::size_t{1} << 30;   // of one rank's data in one MPI call of a gather or broadcast
  std::size_t small_bytes = 4096;                     // up to here a reduction takes one exchange rather than two
};

// Bytes of scratch of a group of `size` ranks.
std::size_t reduction_scratch_bytes(int size, const MpiLimits& limits = {});

// Splits the session's ranks: those of one color form a group, in the order of key. Every rank of the world calls this,
// in one order of groups. Its transfers move when `stream` is polled, which outlives it. A group of one comes back as
// the single-rank communicator.
std::unique_ptr<Communicator> make_mpi_communicator(const MpiSession& session, std::string name, int color, int key,
                                                    Stream& stream, const MpiLimits& limits = {});

// The mesh of one rank of a layout, from groups that `make_group` splits: by a name and a color that exactly the ranks
// of a group have in common. Throws Error where the groups are not the layout's.
using MakeGroup = std::function<std::shared_ptr<Communicator>(const char* name, int color)>;
Mesh make_mesh_of_groups(const Layout& layout, int rank, const Coordinates& at, const MakeGroup& make_group);

}  // namespace upcycle
