#include "parallel/comm/mpi_error.h"

#include <mpi.h>

#include "core/check.h"

namespace upcycle {

void check_mpi(int code, const char* call, const char* file, int line) {
  if (code == MPI_SUCCESS) [[likely]]
    return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
  throw_error(file, line, call,
              fmt::format("MPI error {}: {}", code, std::string(text, static_cast<std::size_t>(length))));
}

}  // namespace upcycle
