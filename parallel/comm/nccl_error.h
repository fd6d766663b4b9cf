#pragma once
#include <nccl.h>

#include "core/error.h"

// Every call of NCCL goes through this: Error with the call's text and what NCCL says. A non-blocking communicator's
// call may still be in progress when it returns.
#define UPCYCLE_NCCL(call)                                                                                          \
  do {                                                                                                              \
    const ncclResult_t upcycle_nccl_result = (call);                                                                \
    UPCYCLE_CHECK(upcycle_nccl_result == ncclSuccess || upcycle_nccl_result == ncclInProgress, "NCCL: {}: {} ({})", \
                  #call, ncclGetErrorString(upcycle_nccl_result), ncclGetLastError(nullptr));                       \
  } while (false)
