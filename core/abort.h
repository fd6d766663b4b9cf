#pragma once
#include <string>

namespace upcycle {

// How to end a process that other ranks may be waiting for. The code that starts MPI sets the hook to MPI_Abort, so
// that its callers need no MPI header; without a hook the process just exits. A hook does not return.
using AbortHook = void (*)(int exit_code);
void set_abort_hook(AbortHook hook);

// Prints "upcycle: `failure`" and ends the whole job with exit code 1. Call it before the communicators are destroyed:
// their destructors would wait for the other ranks.
[[noreturn]] void abort_job(const std::string& failure);

}  // namespace upcycle
