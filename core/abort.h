#pragma once
#include <string>

namespace upcycle {

// How a process ends that others wait for. Whoever starts MPI sets the hook to MPI_Abort, so that code above it needs
// no MPI header; without one the process just exits. A hook does not return.
using AbortHook = void (*)(int exit_code);
void set_abort_hook(AbortHook hook);

// Prints "upcycle: `failure`" and ends the whole job with exit code 1. Call it while the communicators still stand:
// unwinding past them would wait for the other ranks.
[[noreturn]] void abort_job(const std::string& failure);

}  // namespace upcycle
