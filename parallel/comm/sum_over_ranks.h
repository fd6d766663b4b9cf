#pragma once
#include <vector>

#include "parallel/comm/communicator.h"

namespace upcycle {

// Each of `values` becomes its sum over the group's ranks, which all have as many. For results, not inside a step: it
// allocates. Collective.
void sum_over_ranks(std::vector<double>& values, Communicator& group, Device& device, Stream& stream);

}  // namespace upcycle
