#pragma once
#include <string>

namespace upcycle {

std::string nccl_library();  // "NCCL 2.28.9"

}  // namespace upcycle
