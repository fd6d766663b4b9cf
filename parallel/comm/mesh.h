#pragma once
#include <cstddef>
#include <functional>
#include <memory>

#include "parallel/comm/communicator.h"
#include "parallel/comm/layout.h"

namespace upcycle {

class HostGroup;
class MpiSession;

// Bytes of host scratch that the CPU communicators of one rank hold for reductions (resident once used).
std::size_t collective_scratch_bytes(const Layout& layout);

// All groups of one rank, made at the start. Experts cut over etp = tp are cut over the ranks of tp, whose group serves
// both.
struct Mesh {
  Layout layout;
  int rank = 0;
  Coordinates at;
  std::shared_ptr<Communicator> world, tp, dp, ep, edp;
  std::shared_ptr<HostGroup> host = nullptr;  // null: one rank by itself, or ranks of which not all are in the mesh
};

// All communicators, made in the same order on all ranks (a collective call). The layout's world must be the session's
// size. `stream` is a CPU stream. A group of one needs no MPI and gets the single-rank communicator. The mesh must be
// destroyed before the session.
Mesh make_mesh(const MpiSession& session, const Layout& layout, Stream& stream);

// A group of all ranks, to agree on things before the layout is known. A collective call; must be destroyed before the
// session.
std::shared_ptr<Communicator> make_start_group(const MpiSession& session, Stream& stream);

// The mesh of one rank of a layout, from groups that `make_group` splits: by a name and a color that exactly the ranks
// of a group have in common. Throws Error where the groups are not the layout's.
using MakeGroup = std::function<std::shared_ptr<Communicator>(const char* name, int color)>;
Mesh make_mesh_of_groups(const Layout& layout, int rank, const Coordinates& at, const MakeGroup& make_group);

// One rank without MPI: for tests, tools and `plan`. Its tensors lie in host memory, or on a device.
Mesh make_single_mesh();
Mesh make_single_mesh(Device& device, Stream& stream);

}  // namespace upcycle
