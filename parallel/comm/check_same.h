#pragma once
#include <string>

#include "parallel/comm/communicator.h"

namespace upcycle {

// Ranks that start one run must agree on what it is: `text` is lines "KEY: VALUE". Where any rank's differs from rank
// 0's, every rank throws AgreedError: which ranks, the first line that differs on the first of them, and `advice`.
// A collective call.
void check_same(Communicator& world, const std::string& text, const std::string& advice);

}  // namespace upcycle
