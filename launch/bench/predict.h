#pragma once
#include "launch/commands.h"
#include "parallel/serve/server.h"

namespace upcycle {

// What a server does with requests of one size.
struct SteadyServing {
  double latency_alone = 0;   // seconds of one request by itself
  double requests_per_s = 0;  // when there is always a next request
};
// On an idle server. `at_once`: requests that fill it; five times as many come, and those that end in the middle, after
// the first fill and before the last, count.
SteadyServing measure_steady(Server& server, std::int64_t vocab_size, std::int64_t input_len, std::int64_t output_len,
                             std::int64_t at_once);

// `bench predict`: the above on the predicted server of a machine file.
int bench_predict(const Arguments& arguments);

}  // namespace upcycle
