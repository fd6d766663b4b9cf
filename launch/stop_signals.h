#pragma once

namespace upcycle {

// SIGTERM and SIGUSR1 (SLURM's warning before a time limit) ask a training run to save at the next step boundary and to
// end with kStoppedBySignal: the same command goes on from there. To be called before MPI starts, for a job may be
// stopped while it loads; the run then ends before its first step, with nothing saved and nothing half-written.
void catch_stop_signals();

// Whether one came to this process. It may have come to one rank alone: all have to agree on what they do.
bool stop_asked();

constexpr int kStoppedBySignal = 3;

}  // namespace upcycle
