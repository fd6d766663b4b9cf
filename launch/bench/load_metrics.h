#pragma once
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "launch/bench/drive.h"

namespace upcycle {

struct Window {
  double begin = 0, end = 0;  // seconds of a run
  double seconds() const { return end - begin; }
};
struct WindowedRun {
  LoadRun run;
  Window window;
};

// Zeros where there are no values.
struct Summary {
  std::int64_t count = 0;
  double mean = 0, std = 0, median = 0, p90 = 0, p99 = 0;  // percentiles interpolate, as numpy's do
};
Summary summary_of(std::vector<double> values);

// Limits of a good request, ms; vLLM's --goodput.
struct Goodput {
  double ttft = std::numeric_limits<double>::infinity(), tpot = ttft, e2el = ttft;
  bool given = false;
};
Goodput parse_goodput(const std::string& text);  // "ttft:200,tpot:50,e2el:1000", any of them

// What vLLM's `bench serve` reports, of what happened inside the windows: tokens that came (a prompt's with its first
// new token) and requests that ended there. So ramp and drain are left out. Failures of whole runs count.
struct LoadMetrics {
  double duration = 0;                                // seconds, of all windows together
  std::int64_t drawn = 0, completed = 0, failed = 0;  // drawn: arrivals inside the windows
  std::map<std::string, std::int64_t> errors;         // why requests failed
  std::int64_t total_input_tokens = 0, total_output_tokens = 0;
  double mean_output = 0, mean_asked = 0;  // new tokens of a request that completed there
  double request_throughput = 0, request_goodput = 0, output_throughput = 0, total_token_throughput = 0;  // per second
  Summary ttft, tpot, itl, e2el;  // ms, of the requests that completed there
  std::int64_t queue_max = 0;     // requests that had come and had no token yet
  double queue_mean = 0, running_mean = 0;
  std::int64_t preemptions = 0;
  // Of an MoE, per step and summed over its layers; assignments (token, expert) per expert touched; bytes per token
  // computed.
  double experts_per_step = 0, tokens_per_expert = 0, weight_bytes_per_token = 0;
  double generator_share = 0;  // CPU that the load generator used itself, of the time in which the server had work
};
LoadMetrics metrics_of(std::span<const WindowedRun> runs, const Goodput& goodput);

// Requests in the system over time: +1 when one comes, -1 when it has its first token (queue) or has ended.
enum class Leaves : std::uint8_t { AtFirstToken, AtEnd };
struct Crowd {
  std::int64_t most = 0;
  double mean = 0;
};
Crowd crowd_of(const LoadRun& run, const Window& window, Leaves leaves);

}  // namespace upcycle
