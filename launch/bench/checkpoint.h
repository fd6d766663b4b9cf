#pragma once
#include "launch/commands.h"

namespace upcycle {

// `bench checkpoint`: what saving costs a training run of a config, on the file system of a folder: a save that the run
// waits for, beside plain writes of the same bytes; how long a step stands for one in the background, and for a second
// one at once; and what resuming takes.
int bench_checkpoint(const Arguments& arguments);

}  // namespace upcycle
