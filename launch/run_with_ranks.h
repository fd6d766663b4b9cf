#pragma once
#include <functional>

#include "parallel/comm/mpi_session.h"

namespace upcycle {

// Runs a command's body on all ranks of the launcher and gives its exit code. What ends a rank is caught while MPI
// still stands, because unwinding past it would wait for the others:
//   AgreedError  every rank has it: rank 0 prints it, all finalize, 2
//   InputError   only this rank may know of it: it prints it and ends the job with 2; a single rank just returns 2
//   the rest     printed, the job ends with 1
// So read and check the config under agree_or_throw. Where OMP_NUM_THREADS is not set, each of several ranks gets its
// part of the cores as threads.
int run_with_ranks(const std::function<int(const MpiSession&)>& body);

// What the launcher (mpirun, srun) says before MPI starts; rank 0 without one. How many ranks there are only MPI knows:
// srun's PMIx tells no variable of it.
struct LaunchedAs {
  int rank = 0;
  int counted = 0;          // copies of this program, where a variable says it
  bool in_mpi_job = false;  // MPI will find the ranks that were started with this one, if there are any
};
LaunchedAs launched_as();

// Runs the body of a command that is one rank's; several, whatever launched them, are an AgreedError that counts them.
int run_alone(const char* command, const std::function<int()>& body);

void print_input_error(const char* message);  // "upcycle: message", one line on standard error

}  // namespace upcycle
