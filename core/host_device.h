#pragma once

// For small functions that kernels call too.
#if defined(__CUDACC__)
#define UPCYCLE_HOST_DEVICE __host__ __device__
#else
#define UPCYCLE_HOST_DEVICE
#endif
