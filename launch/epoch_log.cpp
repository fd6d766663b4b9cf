#include "launch/epoch_log.h"

#include <algorithm>

#include "core/log.h"

namespace upcycle {

EpochLog::EpochLog(Sampler& sampler, const std::vector<WeightedPath>& sets, std::int64_t samples)
    : sampler_(sampler), sets_(sets), begun_(sampler.epochs_begun(samples)) {}

void EpochLog::after_step(std::int64_t step, std::int64_t samples) {
  if (log_rank() != 0) return;
  const std::vector<std::int64_t> now = sampler_.epochs_begun(samples);
  for (std::size_t s = 0; s < now.size(); ++s)
    if (now[s] > std::max<std::int64_t>(begun_[s], 1))
      log_info("step {}: epoch {} of {} began ({} sequences)", step, now[s], sets_[s].path,
               sampler_.sequences(static_cast<std::int64_t>(s)));
  begun_ = now;
}

}  // namespace upcycle
