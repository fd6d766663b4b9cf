#include "tests/reshard_mpi/part_mesh.h"

#include "core/error.h"
#include "parallel/comm/backends.h"
#include "tests/mpi_tests.h"

namespace upcycle::test {

std::optional<Mesh> make_part_mesh(const Layout& layout) {
  const int rank = mpi_session().rank();
  const bool in = rank < layout.world;
  const Coordinates at = in ? coordinates_of(layout, rank) : Coordinates{};
  // Ranks outside are alone in a group of a color that no other has.
  const auto group = [&](const char* name, int color) {
    return make_mpi_communicator(mpi_session(), name, in ? color : layout.world + rank, rank, test_stream());
  };
  Mesh mesh{layout, rank, at, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  mesh.world = group("world", 0);
  mesh.tp = group("tp", at.dp);
  mesh.dp = group("dp", at.tp);
  mesh.ep = group("ep", at.edp * layout.etp + at.etp);
  mesh.etp = group("etp", at.edp * layout.ep + at.ep);
  mesh.edp = group("edp", at.ep * layout.etp + at.etp);
  if (!in) return std::nullopt;
  UPCYCLE_CHECK(mesh.world->size() == layout.world && mesh.tp->size() == layout.tp && mesh.edp->size() == layout.edp,
                "the groups are not the layout's");
  return mesh;
}

}  // namespace upcycle::test
