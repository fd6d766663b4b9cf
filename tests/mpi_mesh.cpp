#include "tests/mpi_tests.h"

namespace upcycle::test {

Mesh make_mesh_for(const MpiSession& session, const Layout& layout, Device&, Stream& stream) {
  return make_mesh(session, layout, stream);
}

}  // namespace upcycle::test
