#pragma once
#include <cstdint>

namespace upcycle {

// SIGTERM and SIGUSR1 (SLURM's warning before a time limit) ask a training run to save at the next step boundary and to
// end with kStoppedBySignal: the same command resumes it. Call it before MPI starts, because a job may be stopped while
// loading; the run then ends before its first step, with nothing saved and nothing half-written.
void catch_stop_signals();

// From now on SIGTERM, a second or more after the first of these signals, ends the process at once, with
// kStoppedBySignal too: what a save has not published is lost, and the newest checkpoint is as whole as after a kill.
// (An earlier one is the same request delivered twice, and launchers repeat SIGUSR1.)
void let_second_signal_end();

// The same by itself, so many seconds after the first of these signals, also of one that has come; 0: never.
void set_stop_deadline(std::int64_t seconds);

// SIGINT and SIGHUP (a closed terminal; not under nohup) ask for the same, for a program that has children to stop. The
// second one ends it at once.
void catch_interrupt();

// Whether this process received one. Perhaps only one rank did: the ranks must agree on what to do.
bool stop_asked();

constexpr int kStoppedBySignal = 3;

}  // namespace upcycle
