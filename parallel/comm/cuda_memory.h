#pragma once
#include "core/arena.h"

namespace upcycle {

// What CUDA and NCCL take on a GPU beside our arenas. An estimate, not measured: half a GiB for CUDA's context, our
// kernels and cuBLASLt's, and a quarter for the channels' buffers of each NCCL communicator of more than one rank (by
// default up to 32 channels of several MiB). Some of it is already taken when a run asks how much is free.
MemoryClass cuda_estimate(int communicators);

}  // namespace upcycle
