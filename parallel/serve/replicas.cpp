#include "parallel/serve/replicas.h"

#include <algorithm>
#include <utility>

namespace upcycle {

Replicas::Replicas(int count, const SchedulerOptions& options) {
  for (int d = 0; d < count; ++d) schedulers_.emplace_back(options);
  plans_.resize(schedulers_.size());
}

void Replicas::add(Request request) {
  const auto least = std::min_element(schedulers_.begin(), schedulers_.end(),
                                      [](const Scheduler& a, const Scheduler& b) { return a.load() < b.load(); });
  least->add(std::move(request));
}

bool Replicas::cancel(std::int64_t id) {
  return std::any_of(schedulers_.begin(), schedulers_.end(), [&](Scheduler& s) { return s.cancel(id); });
}

bool Replicas::busy() const {
  return std::any_of(schedulers_.begin(), schedulers_.end(), [](const Scheduler& s) { return s.busy(); });
}

void Replicas::schedule(StepReport& report) {
  std::vector<EmittedToken> kept = std::move(report.tokens);  // its memory
  kept.clear();
  report = {};
  report.tokens = std::move(kept);
  for (std::size_t d = 0; d < schedulers_.size(); ++d) {
    Scheduler& s = schedulers_[d];
    const std::int64_t before = s.preemptions();
    plans_[d] = s.schedule();
    report.waiting += s.waiting();
    report.running += s.running();
    report.preemptions += s.preemptions() - before;
    for (const ScheduledRows& r : plans_[d]) {
      report.rows += r.rows;
      ++report.sequences;
      const auto prompt = static_cast<std::int64_t>(r.sequence->request.prompt.size());
      report.prompt_rows += std::clamp<std::int64_t>(prompt - r.begin, 0, r.rows);
    }
  }
}

std::int64_t Replicas::draws(std::size_t replica) const {
  const auto& plan = plans_[replica];
  return std::count_if(plan.begin(), plan.end(), [](const ScheduledRows& r) { return r.samples; });
}

void Replicas::complete(std::size_t replica, std::span<const std::int32_t> drawn, StepReport& report) {
  const auto emitted = schedulers_[replica].complete(drawn);
  report.tokens.insert(report.tokens.end(), emitted.begin(), emitted.end());
}

}  // namespace upcycle
