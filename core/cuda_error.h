#pragma once
#include <cuda_runtime.h>

#include "core/check.h"

// For the parts of kernels, comm and launch that only builds with CUDA have.
//
// Every call of the CUDA runtime goes through this: Error with the call's text and what CUDA says.
#define UPCYCLE_CUDA(call)                                                                                           \
  do {                                                                                                               \
    const cudaError_t upcycle_cuda_error = (call);                                                                   \
    UPCYCLE_CHECK(upcycle_cuda_error == cudaSuccess, "CUDA: {}: {}", #call, cudaGetErrorString(upcycle_cuda_error)); \
  } while (false)

namespace upcycle {

// Whether an event is reached; never waits. Also where CUDA has failed: the next call says so.
inline bool is_reached(cudaEvent_t event) {
  if (cudaEventQuery(event) != cudaErrorNotReady) return true;
  cudaGetLastError();  // it would stand there as an error of the next call that is asked for one
  return false;
}

}  // namespace upcycle
