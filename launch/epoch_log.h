#pragma once
#include <cstdint>
#include <vector>

#include "data/sampler.h"

namespace upcycle {

// What a run reads of each training set: said at its start, and when an epoch begins. Each set of a blend has its own
// epochs: a small one with a large weight repeats sooner.
class EpochLog {
 public:
  // `sampler` (made from `sets`) must outlive this. Of the data's samples `begin` were passed before this process, and
  // the run ends at `end`.
  EpochLog(Sampler& sampler, const std::vector<WeightedPath>& sets, std::int64_t begin, std::int64_t end);
  void after_step(std::int64_t step, std::int64_t samples);
  void passed_over(std::int64_t samples) { end_ += samples; }  // by a step that was skipped: the run reads as many more

 private:
  Sampler& sampler_;
  const std::vector<WeightedPath>& sets_;
  std::int64_t end_;
  std::vector<std::int64_t> begun_;
};

}  // namespace upcycle
