#pragma once
#include "parallel/comm/mesh.h"
#include "parallel/comm/mpi_session.h"

namespace upcycle::test {

// The session that mpi_main.cpp started; one rank where the tests run without mpirun.
const MpiSession& mpi_session();

// The mesh of all ranks with this layout. A collective call: every rank makes the same meshes in the same order.
Mesh make_test_mesh(int tp = 1, int ep = 1, int etp = 1);

// The same for tensors on this device and ops on this stream.
Mesh make_test_mesh(Device& device, Stream& stream, int tp = 1, int ep = 1, int etp = 1);
// Over MPI, or where a program links cuda_host/nccl_mesh.cpp, over NCCL for CUDA devices.
Mesh make_mesh_for(const MpiSession& session, const Layout& layout, Device& device, Stream& stream);

// All ranks, for what tests exchange through host memory, whatever their device is.
Communicator& host_world();

// The stream of test meshes without one of their own.
Stream& test_stream();
inline void wait(const Event& event) { test_stream().wait(event); }

}  // namespace upcycle::test
