#pragma once
#include <cuda_runtime.h>

#include "core/check.h"

// For the parts of kernels, comm and launch that are compiled only with CUDA.
//
// Wraps every call of the CUDA runtime: a failure throws Error with the call's text and CUDA's message.
#define UPCYCLE_CUDA(call)                                                                                           \
  do {                                                                                                               \
    const cudaError_t upcycle_cuda_error = (call);                                                                   \
    UPCYCLE_CHECK(upcycle_cuda_error == cudaSuccess, "CUDA: {}: {}", #call, cudaGetErrorString(upcycle_cuda_error)); \
  } while (false)

namespace upcycle {

// Whether an event is reached; never waits. True also if CUDA has failed: the next checked call reports that.
inline bool is_reached(cudaEvent_t event) {
  if (cudaEventQuery(event) != cudaErrorNotReady) return true;
  cudaGetLastError();  // clears cudaErrorNotReady, or a later cudaGetLastError would report it
  return false;
}

}  // namespace upcycle
