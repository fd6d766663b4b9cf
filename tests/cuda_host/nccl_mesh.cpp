#include "parallel/comm/comm_nccl.h"
#include "tests/mpi_tests.h"

namespace upcycle::test {

Mesh make_mesh_for(const MpiSession& session, const Layout& layout, Device& device, Stream& stream) {
  if (device.kind() == DeviceKind::Cuda) return make_nccl_mesh(session, layout, device, stream);
  return make_mesh(session, layout, stream);
}

}  // namespace upcycle::test
