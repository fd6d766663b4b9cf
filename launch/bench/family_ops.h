#pragma once
#include "launch/bench/op_case.h"
#include "launch/bench/operands.h"

namespace upcycle {

// Ops that only some families of models have: biases, norms of heads, multipliers, a shared expert's gate. Each is
// timed whether the config's model has it or not.
std::vector<OpCase> family_cases(const Backend& backend, const Operands& operands);

}  // namespace upcycle
