#include "tests/reshard_mpi/part_mesh.h"

#include "parallel/comm/comm_mpi.h"
#include "tests/mpi_tests.h"

namespace upcycle::test {

std::optional<Mesh> make_part_mesh(const Layout& layout) {
  const int rank = mpi_session().rank();
  const bool in = rank < layout.world;
  // Each rank outside gets a color of its own, because all ranks must take part in the split.
  Mesh mesh = make_mesh_of_groups(in ? layout : Layout{}, rank, in ? coordinates_of(layout, rank) : Coordinates{},
                                  [&](const char* name, int color) {
                                    return make_mpi_communicator(mpi_session(), name, in ? color : layout.world + rank,
                                                                 rank, test_stream());
                                  });
  if (!in) return std::nullopt;
  return mesh;
}

}  // namespace upcycle::test
