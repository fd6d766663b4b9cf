#pragma once
#include "parallel/comm/comm_mpi.h"
#include "tests/mpi_tests.h"

namespace upcycle::test {

// All ranks, with their own cuts.
inline std::unique_ptr<Communicator> make_test_group(const std::string& name, const MpiLimits& limits = {}) {
  return make_mpi_communicator(mpi_session(), name, 0, mpi_session().rank(), test_stream(), limits);
}

}  // namespace upcycle::test
