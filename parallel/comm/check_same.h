#pragma once
#include <string>

#include "parallel/comm/communicator.h"

namespace upcycle {

// All ranks of a run must agree on its settings: `text` holds lines "KEY: VALUE". If any rank's text differs from rank
// 0's, every rank throws AgreedError: which ranks, the first line that differs on the first of them, and `advice`. A
// collective call.
void check_same(Communicator& world, const std::string& text, const std::string& advice);

}  // namespace upcycle
