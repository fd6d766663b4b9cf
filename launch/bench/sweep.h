#pragma once
#include <functional>
#include <limits>

#include "launch/bench/sustained.h"

namespace upcycle {

struct SweepOptions {
  double rate_step = 0;  // requests/s
  std::int64_t most_rates = 1000;
  std::int64_t repetitions = 1;  // of each rate, with other arrivals
  double window = 60;            // seconds
  bool window_grows = true;      // where it is shorter than kWindowLatencies latencies, the rate is measured again
  double seconds = std::numeric_limits<double>::infinity();  // of the server's clock that the sweep may take
  Goodput goodput;
  std::function<void(const std::string&)> say;  // a line for each rate
};

// All requests at once: what the server does when there is always a next one.
struct Capacity {
  double one_alone = 0;                                            // seconds that one request takes by itself
  std::int64_t requests = 0;                                       // that came at once
  double request_throughput = 0;                                   // per second
  double request_throughput_low = 0, request_throughput_high = 0;  // of the repetitions
  LoadMetrics metrics;
};
// Doubles the number of requests until there are `most` or the next would take longer than what is left of `seconds`.
Capacity measure_capacity(Server& server, const Workload& workload, std::int64_t most, double seconds,
                          std::int64_t repetitions, const Goodput& goodput);

struct RatePoint {
  double rate = 0;      // requests/s
  LoadMetrics metrics;  // of all repetitions
  std::vector<Verdict> verdicts;
  Summary tokens_per_s;  // over the repetitions
  double window = 0;     // seconds of each
  bool sustained_by_all() const;
  bool sustained_by_any() const;
};
RatePoint measure_rate(Server& server, const Workload& workload, double rate, const SweepOptions& options);

struct Sweep {
  std::vector<RatePoint> points;
  // Requests/s: the highest that a repetition sustained; median, lowest and highest of the repetitions. 0: none.
  double max_rate = 0, max_rate_low = 0, max_rate_high = 0;
  std::string ended;  // why, if not because no repetition sustained the last rate
};
// Rates in equal steps until no repetition sustains one.
Sweep sweep_rates(Server& server, const Workload& workload, const SweepOptions& options);

// Tokens/s at this mean end-to-end latency (ms) by linear interpolation between neighbouring rates; the highest of them
// where the curve comes back. 0 where no rate reaches it.
double throughput_at(const std::vector<RatePoint>& points, double latency);

}  // namespace upcycle
