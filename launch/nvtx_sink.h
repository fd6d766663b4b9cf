#pragma once
#include <memory>

#include "core/trace.h"

namespace upcycle {

// Passes every range to NVTX, in the domain "upcycle", for the profiler attached to this process (Nsight Systems, or
// any library that NVTX_INJECTION64_PATH names). Null if none is attached, so that ranges cost nothing, and in a build
// without NVTX's headers.
std::unique_ptr<TraceSink> make_nvtx_sink();

}  // namespace upcycle
