#pragma once
#include <functional>

#include "parallel/comm/mpi_session.h"

namespace upcycle {

// Runs a command's body on all ranks of the launcher and returns its exit code. Exceptions are caught before MPI is
// finalized, which would wait for the other ranks:
//   AgreedError  thrown on every rank: rank 0 prints it, all finalize, exit code 2
//   InputError   perhaps only on this rank, which prints it and ends the job with 2; a single rank just returns 2
//   others       printed; the job ends with 1
// So read and check the config under agree_or_throw. If OMP_NUM_THREADS is not set, the ranks of a host divide its
// cores among their threads.
int run_with_ranks(const std::function<int(const MpiSession&)>& body);

// What the launcher's environment (mpirun, srun) says before MPI starts; rank 0 without one. Only MPI knows the number
// of ranks: srun with PMIx sets no variable for it.
struct LaunchedAs {
  int rank = 0;
  int counted = 0;          // copies of this program, if a variable says so, else 0
  bool in_mpi_job = false;  // MPI will find any ranks that were started with this one
};
LaunchedAs launched_as();

// Runs the body of a single-rank command; if several ranks were launched, throws an AgreedError that says how many.
int run_alone(const char* command, const std::function<int()>& body);

void print_input_error(const char* message);  // "upcycle: message", one line on standard error

}  // namespace upcycle
