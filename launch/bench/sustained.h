#pragma once
#include "launch/bench/load_metrics.h"

namespace upcycle {

// The rule by which a rate counts as sustained, as reports print it. Requests keep arriving at the rate from the ramp
// to the end of the run, which comes a fifth of the window after it; only arrivals of the window are judged. The
// Poisson number has the first third's mean (at least 1); near capacity a steady queue swings by more than that.
inline constexpr const char* kRule =
    "(1) at least 95 % of the requests that came in the window end in time: by the window's end plus the p90 latency "
    "of those of its first half, at most a fifth of the window; and (2) the number of requests in the system does not "
    "grow: its mean over the last third exceeds that over the first by no more than chance explains, the larger of "
    "two standard deviations of a Poisson number and a fortieth of the arrivals";
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
