#include "parallel/comm/nccl_library.h"

#include <fmt/core.h>
#include <nccl.h>

#include "parallel/comm/nccl_error.h"

namespace upcycle {

std::string nccl_library() {
  int version = 0;
  UPCYCLE_NCCL(ncclGetVersion(&version));  // 22809 is 2.28.9
  return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace upcycle
