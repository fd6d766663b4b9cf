#pragma once
#include "launch/bench/load_metrics.h"

namespace upcycle {

// The rule by which a rate counts as sustained. Requests keep arriving at the rate from the ramp to the end of the run,
// which comes a fifth of the window after it; only arrivals of the window are judged:
// - at least 95 % of those drawn have ended well by the window's end plus the 90th percentile of the latency of those
//   that came in its first half (at most a fifth of the window);
// - requests in the system (come, not ended) do not grow: their mean over the window's last third exceeds that over the
//   first third by at most two standard deviations of a Poisson number with the latter mean (at least 1), or a fortieth
//   of the arrivals drawn where that is more: near capacity a queue that does not grow swings by more than the former.
struct Verdict {
  bool sustained = false;
  double completed_share = 0;              // of the arrivals drawn
  double crowd_first = 0, crowd_last = 0;  // mean requests in the system, first and last third
  bool grows = false;
  double latency = 0;  // seconds: the median of those of the first half; 0 if none ended
};
Verdict judge(const WindowedRun& r);

inline constexpr double kDrainShare = 0.2;     // of the window
inline constexpr double kWindowLatencies = 5;  // a window is at least this many latencies long

}  // namespace upcycle
