#pragma once
#include "parallel/comm/mesh.h"

namespace upcycle::test {

// The session that mpi_main.cpp started; one rank where the tests run without mpirun.
const MpiSession& mpi_session();

// The mesh of all ranks with this layout. A collective call: every rank makes the same meshes in the same order.
Mesh make_test_mesh(int tp = 1, int ep = 1, int etp = 1);

// The stream of all test meshes.
Stream& test_stream();
inline void wait(const Event& event) { test_stream().wait(event); }

}  // namespace upcycle::test
