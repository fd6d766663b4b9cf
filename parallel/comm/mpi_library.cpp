#include "parallel/comm/mpi_library.h"

#include <mpi.h>

#include <array>

#include "parallel/comm/mpi_error.h"

namespace upcycle {

std::string mpi_library() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  UPCYCLE_MPI(MPI_Get_library_version(text.data(), &length));
  const std::string all(text.data());
  return all.substr(0, all.find_first_of(",\n"));  // Open MPI goes on with its build's host and date
}

}  // namespace upcycle
