#pragma once
#include "parallel/comm/comm_mpi.h"
#include "tests/mpi_tests.h"

namespace upcycle::test {

// A group of all ranks, with the given limits.
inline std::unique_ptr<Communicator> make_test_group(const std::string& name, const MpiLimits& limits = {}) {
  return make_mpi_communicator(mpi_session(), name, 0, mpi_session().rank(), test_stream(), limits);
}

}  // namespace upcycle::test
