#pragma once

namespace upcycle {

// SIGTERM and SIGUSR1 (SLURM's warning before a time limit) ask a training run to save at the next step boundary and to
// end with kStoppedBySignal: the same command resumes it. Call it before MPI starts, because a job may be stopped while
// loading; the run then ends before its first step, with nothing saved and nothing half-written.
void catch_stop_signals();

// SIGINT and SIGHUP (a closed terminal; not under nohup) ask for the same, for a program that has children to stop. The
// second one ends it at once.
void catch_interrupt();

// Whether this process received one. Perhaps only one rank did: the ranks must agree on what to do.
bool stop_asked();

constexpr int kStoppedBySignal = 3;

}  // namespace upcycle
