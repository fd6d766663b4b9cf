#pragma once

namespace upcycle {

// Throws Error with MPI's text where code is not MPI_SUCCESS. Needs MPI_ERRORS_RETURN on the communicator, else MPI
// ends the process before it returns a code.
void check_mpi(int code, const char* call, const char* file, int line);

}  // namespace upcycle

#define UPCYCLE_MPI(call) ::upcycle::check_mpi((call), #call, __FILE__, __LINE__)
