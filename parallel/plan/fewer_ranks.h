#pragma once
#include <cstddef>
#include <optional>

#include "parallel/plan/plan.h"

namespace upcycle {

// For a run that lost ranks: the layout of at most `most` ranks with which it goes on, with the same global batch and
// micro batch, so in the same order of data. It is the run's own tp, ep and etp with fewer replicas where that uses
// more than half of them, else the layout of most ranks, of those the one that changes tp, ep and etp least. `memory`
// above 0: bytes that the plan's peak on a rank must not exceed. nullopt: there is none.
std::optional<Layout> layout_of_fewer_ranks(const PlannedRun& run, int most, std::size_t memory = 0);

}  // namespace upcycle
