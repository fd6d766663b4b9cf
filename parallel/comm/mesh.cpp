#include "parallel/comm/mesh.h"

#include "core/check.h"
#include "parallel/comm/comm_mpi.h"
#include "parallel/comm/host_group.h"
#include "parallel/comm/single_communicator.h"

namespace upcycle {

std::size_t collective_scratch_bytes(const Layout& layout) {
  std::size_t bytes = 0;
  for (const int size : {layout.world, layout.tp, layout.dp, layout.ep, layout.edp}) {
    bytes += reduction_scratch_bytes(size);
  }
  return bytes;
}

Mesh make_mesh_of_groups(const Layout& layout, int rank, const Coordinates& at, const MakeGroup& make_group) {
  Mesh mesh{layout, rank, at, nullptr, nullptr, nullptr, nullptr, nullptr};
  // A group is named by what its ranks have in common: the other coordinates of the same grid. Every rank splits in
  // this order; another order on one rank would pair different groups.
  mesh.world = make_group("world", 0);
  mesh.tp = make_group("tp", at.dp);
  mesh.dp = make_group("dp", at.tp);
  mesh.ep = make_group("ep", at.edp * layout.etp + at.etp);
  mesh.edp = make_group("edp", at.ep * layout.etp + at.etp);
  UPCYCLE_CHECK(mesh.world->size() == layout.world && mesh.tp->rank() == at.tp && mesh.tp->size() == layout.tp &&
                    mesh.dp->rank() == at.dp && mesh.dp->size() == layout.dp && mesh.ep->rank() == at.ep &&
                    mesh.ep->size() == layout.ep && mesh.edp->rank() == at.edp && mesh.edp->size() == layout.edp,
                "the groups that MPI made differ from the layout's coordinates");
  return mesh;
}

Mesh make_mesh(const MpiSession& session, const Layout& layout, Stream& stream) {
  UPCYCLE_CHECK(layout.world == session.size(), "a layout of {} ranks on {}", layout.world, session.size());
  UPCYCLE_CHECK(stream.kind() == DeviceKind::Cpu, "MPI communicators serve CPU streams only");
  const int rank = session.rank();
  Mesh mesh = make_mesh_of_groups(layout, rank, coordinates_of(layout, rank), [&](const char* name, int color) {
    return make_mpi_communicator(session, name, color, rank, stream);
  });
  mesh.host = make_host_group(session, stream);
  return mesh;
}

std::shared_ptr<Communicator> make_start_group(const MpiSession& session, Stream& stream) {
  return make_mpi_communicator(session, "start", 0, session.rank(), stream);
}

namespace {

template <class... Memory>
Mesh single_mesh(Memory&... memory) {
  return make_mesh_of_groups(Layout{}, 0, Coordinates{},
                             [&](const char* name, int) { return make_single_communicator(name, memory...); });
}

}  // namespace

Mesh make_single_mesh() { return single_mesh(); }
Mesh make_single_mesh(Device& device, Stream& stream) { return single_mesh(device, stream); }

}  // namespace upcycle
