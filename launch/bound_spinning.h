#pragma once

namespace upcycle {

// OpenMP's threads spin for some 5 ms at the end of each parallel region before they sleep, which keeps a core from the
// very thread that they wait for where another program has taken its own. Its runtime reads how long from the
// environment, before main: the program starts itself again with a bound of 30 to 150 us, long enough for the next
// region of a step that is under way. What the user set stays (GOMP_SPINCOUNT, OMP_WAIT_POLICY). Call it first in main,
// before anything that exec would lose; it returns in the process that goes on.
void bound_spinning(char** argv);

}  // namespace upcycle
