#pragma once
#include "core/config/config.h"
#include "launch/commands.h"
#include "parallel/comm/layout.h"
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

// Of a prediction with --world ranks; 0: as few as tp, ep and etp need. InputError naming layouts that work.
Layout predicted_layout(const ModelConfig& model, std::int64_t world, const ParallelConfig& parallel,
                        const std::string& name);

}  // namespace upcycle
