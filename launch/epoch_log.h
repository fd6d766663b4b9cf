#pragma once
#include <cstdint>
#include <vector>

#include "data/sampler.h"

namespace upcycle {

// Says when a training set begins anew. Of a blend each set has epochs of its own: a small one with a large weight
// comes round first.
class EpochLog {
 public:
  // `sampler` outlives it and is one of `sets`; `samples`: consumed before this process.
  EpochLog(Sampler& sampler, const std::vector<WeightedPath>& sets, std::int64_t samples);
  void after_step(std::int64_t step, std::int64_t samples);

 private:
  Sampler& sampler_;
  const std::vector<WeightedPath>& sets_;
  std::vector<std::int64_t> begun_;
};

}  // namespace upcycle
