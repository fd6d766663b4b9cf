#pragma once
#include <functional>

#include "parallel/comm/mesh.h"

namespace upcycle {

// Runs a command's body on all ranks of the launcher and gives its exit code. What ends a rank is caught while MPI
// still stands, because unwinding past it would wait for the others:
//   AgreedError  every rank has it: rank 0 prints it, all finalize, 2
//   InputError   only this rank may know of it: it prints it and ends the job with 2; a single rank just returns 2
//   the rest     printed, the job ends with 1
// So read and check the config under agree_or_throw. Where OMP_NUM_THREADS is not set, each of several ranks gets its
// part of the cores as threads.
int run_with_ranks(const std::function<int(const MpiSession&)>& body);

// What the launcher (mpirun, srun) says before MPI starts; rank 0 of 1 without one.
struct LaunchedAs {
  int rank = 0, size = 1, ranks_on_host = 1;
};
LaunchedAs launched_as();

void print_input_error(const char* message);  // "upcycle: message", one line on standard error

}  // namespace upcycle
