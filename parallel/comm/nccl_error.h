#pragma once
#include <nccl.h>

#include "core/check.h"

// Every call of NCCL goes through this: Error with the call's text and what NCCL says. Communicators block (NcclGroup):
// a call that is in progress when it returns means that the environment overrides this.
#define UPCYCLE_NCCL(call)                                                                    \
  do {                                                                                        \
    const ncclResult_t upcycle_nccl_result = (call);                                          \
    UPCYCLE_CHECK(upcycle_nccl_result != ncclInProgress,                                      \
                  "NCCL: {}: its communicators must block; unset NCCL_COMM_BLOCKING", #call); \
    UPCYCLE_CHECK(upcycle_nccl_result == ncclSuccess, "NCCL: {}: {} ({})", #call,             \
                  ncclGetErrorString(upcycle_nccl_result), ncclGetLastError(nullptr));        \
  } while (false)
