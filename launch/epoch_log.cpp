#include "launch/epoch_log.h"

#include <algorithm>

#include "core/log.h"

namespace upcycle {

EpochLog::EpochLog(Sampler& sampler, const std::vector<WeightedPath>& sets, std::int64_t begin, std::int64_t end)
    : sampler_(sampler), sets_(sets), end_(end), begun_(sampler.epochs_begun(begin)) {
  for (std::size_t s = 0; s < sets.size(); ++s) {
    const auto set = static_cast<std::int64_t>(s);
    const double sequences = static_cast<double>(sampler.sequences(set)), share = sampler.share(set);
    const double all = share * static_cast<double>(end), done = share * static_cast<double>(begin);
    log_info("data: {}: {} tokens in {} documents, {} sequences of {}; the run reads {:.0f}, {:.3g} epochs{}",
             sets[s].path, sampler.sets()[s].tokens(), sampler.sets()[s].documents(), sampler.sequences(set),
             sampler.seq_length(), all, all / sequences,
             (begin > 0 ? fmt::format(", of which {:.3g} are passed", done / sequences) : "") +
                 (sampler.sets()[s].has_mask() ? "; its loss mask says which tokens count" : ""));
  }
}

void EpochLog::after_step(std::int64_t step, std::int64_t samples) {
  if (log_rank() != 0) return;
  const std::vector<std::int64_t> now = sampler_.epochs_begun(samples);
  for (std::size_t s = 0; s < now.size(); ++s) {
    if (now[s] <= std::max<std::int64_t>(begun_[s], 1)) continue;
    const auto set = static_cast<std::int64_t>(s);
    const std::int64_t left = std::max<std::int64_t>(0, end_ - samples);
    log_info("step {}: epoch {} of {} began ({} sequences); {} tokens of the run are left, {:.3g} epochs of it", step,
             now[s], sets_[s].path, sampler_.sequences(set), left * sampler_.seq_length(),
             sampler_.share(set) * static_cast<double>(left) / static_cast<double>(sampler_.sequences(set)));
  }
  begun_ = now;
}

}  // namespace upcycle
