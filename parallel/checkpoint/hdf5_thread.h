#pragma once
#include "parallel/checkpoint/io_thread.h"

namespace upcycle {

// The I/O thread that all HDF5 calls of this process go through, checkpoints being written and read alike: the
// library's state is global to the process, so its thread is too. Started by the first call, ended at exit.
IoThread& hdf5_thread();

}  // namespace upcycle
