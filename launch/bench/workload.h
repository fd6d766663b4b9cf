#pragma once
#include <vector>

#include "launch/bench/request_file.h"
#include "parallel/serve/request.h"

namespace upcycle {

// What is asked of a server, in vLLM's terms.
struct Workload {
  std::int64_t input_len = 0, output_len = 0;  // tokens
  double range_ratio = 0;         // r of [0, 1): lengths are uniform on the integers of [(1 - r) len, (1 + r) len]
  std::vector<FileRequest> file;  // if any: these and no drawn lengths, in order, and from the first again
  double burstiness = 1;          // gaps are gamma with this shape and the mean 1 / rate; 1: a Poisson process
  std::int64_t vocab_size = 0;    // of the random prompts
  std::uint64_t seed = 1;         // of everything drawn
};
void use_requests(Workload& workload, std::vector<FileRequest> file);  // and their mean lengths
std::int64_t longest_request(const Workload& workload);                // prompt and new tokens

struct TimedRequest {
  double arrival = 0;  // seconds after the run begins
  Request request;     // greedy, stops at nothing but its length; its id is its place in the run
};

// `len` token ids below vocab_size; `key` and `id` (of one request) number the draw.
std::vector<std::int32_t> random_prompt(std::int64_t len, std::int64_t vocab_size, std::uint64_t seed,
                                        std::uint64_t key, std::uint64_t id);
// Times of arrival in [0, seconds), open loop: they do not depend on the server. `run` numbers the runs of one seed.
std::vector<double> draw_arrivals(const Workload& workload, double rate, double seconds, std::uint64_t run);
// The requests that come at these times.
std::vector<TimedRequest> draw_requests(const Workload& workload, const std::vector<double>& arrivals,
                                        std::uint64_t run);

}  // namespace upcycle
