#pragma once
#include <cstdint>
#include <vector>

#include "data/sampler.h"

namespace upcycle {

// Logs when an epoch of a training set begins. Each set of a blend has its own epochs: a small one with a large weight
// repeats sooner.
class EpochLog {
 public:
  // `sampler` (made from `sets`) must outlive this; `samples`: consumed before this process.
  EpochLog(Sampler& sampler, const std::vector<WeightedPath>& sets, std::int64_t samples);
  void after_step(std::int64_t step, std::int64_t samples);

 private:
  Sampler& sampler_;
  const std::vector<WeightedPath>& sets_;
  std::vector<std::int64_t> begun_;
};

}  // namespace upcycle
