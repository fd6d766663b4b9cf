#pragma once
#include <string>

#include "parallel/plan/plan.h"

// What the ranks of one machine need of its host memory together.
namespace upcycle {

struct NodeMemory {
  std::int64_t ranks = 0;            // on one machine
  std::size_t per_rank = 0;          // bytes; rank 0's plan, which holds the most
  std::size_t given = 0;             // 0: not said
  std::vector<MemoryClass> classes;  // of a rank, in host memory, the largest first
  std::size_t total() const { return static_cast<std::size_t>(ranks) * per_rank; }
  bool fits() const { return given == 0 || total() <= given; }
};

// The ranks of one machine: `given` or, where it is 0, at most 8 where the run computes on GPUs, else all. InputError
// where it is no number of ranks of this world.
std::int64_t ranks_of_node(std::int64_t world, const Config& config, std::int64_t given);

NodeMemory node_memory(const Plan& plan, const Config& config, std::int64_t ranks_per_node, std::size_t given);

// "host memory per node: ..." and, where `given`, whether it fits.
std::string text_of(const NodeMemory& node, bool cuda);

}  // namespace upcycle
