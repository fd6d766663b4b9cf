#pragma once
#include <cstddef>

#include "core/dtype.h"
#include "launch/backend.h"

namespace upcycle {

struct CollectiveBench {
  DType dtype = DType::BF16;
  std::size_t largest = std::size_t{256} << 20;  // bytes of the largest message
  double seconds = 0.2;                          // approximate time per row
  double link = 0;                               // bytes per second out of a rank, to compare with; 0: not known
  bool json = false;
};

// Times the collectives of a training step, by themselves, in each group of the mesh (all its groups of a kind at once)
// and prints one row for each size. Bandwidths are those of nccl-tests: "bus" is what a rank's link has to carry,
// whatever the number of ranks. Collective.
void bench_collectives(const Backend& backend, const Mesh& mesh, const CollectiveBench& bench);

}  // namespace upcycle
