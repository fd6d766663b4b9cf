#include "launch/bench/sustained.h"

#include <algorithm>
#include <cmath>

namespace upcycle {

Verdict judge(const WindowedRun& r) {
  constexpr double kShare = 0.95;
  const Window& w = r.window;
  const double third = w.seconds() / 3;
  Verdict v;
  std::vector<double> latencies;
  for (const RequestRecord& request : r.run.requests)
    if (request.ending == Ending::Completed && request.arrival >= w.begin && request.arrival < w.begin + 1.5 * third)
      latencies.push_back(request.e2el());
  const Summary early = summary_of(std::move(latencies));
  v.latency = early.median;
  const double until = w.end + std::min(early.p90, kDrainShare * w.seconds());
  double drawn = 0, completed = 0;
  for (const RequestRecord& request : r.run.requests) {
    if (request.arrival < w.begin || request.arrival >= w.end) continue;
    drawn += 1;
    completed += request.ending == Ending::Completed && request.end <= until ? 1 : 0;
  }
  v.completed_share = drawn > 0 ? completed / drawn : 1;  // a rate so low that none came is served
  v.crowd_first = crowd_of(r.run, {w.begin, w.begin + third}, Leaves::AtEnd).mean;
  v.crowd_last = crowd_of(r.run, {w.end - third, w.end}, Leaves::AtEnd).mean;
  v.grows = v.crowd_last - v.crowd_first > std::max(2 * std::sqrt(std::max(1.0, v.crowd_first)), drawn / 40);
  v.sustained = v.completed_share >= kShare && !v.grows;
  return v;
}

}  // namespace upcycle
