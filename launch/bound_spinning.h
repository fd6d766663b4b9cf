#pragma once

namespace upcycle {

// OpenMP's threads spin for about 5 ms at the end of each parallel region before they sleep, which on shared cores can
// keep the very thread that they wait for from running. The runtime reads the duration from the environment before
// main, so the program execs itself with a bound of 30 to 150 us, enough to reach the next region within a step. What
// the user set is kept (GOMP_SPINCOUNT, OMP_WAIT_POLICY). Call it first in main, before anything that exec would lose;
// it returns in the re-executed process, or if exec is not needed.
void bound_spinning(char** argv);

}  // namespace upcycle
