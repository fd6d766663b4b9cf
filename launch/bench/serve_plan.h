#pragma once
#include <string>

#include "launch/bench/measure_server.h"

namespace upcycle {

class Options;

// What is asked of the servers, from the command line.
struct LoadOptions {
  std::string requests, tokenizer, batches, goodput;
  std::int64_t input_len = 0, output_len = 0, seed = 1, repetitions = 0;
  double random_range_ratio = 0, burstiness = 1, rate_step = 0;
  double seconds = 170;  // for all servers, if not thorough: starting takes some of the three minutes
  bool thorough = false;
};
void declare(Options& options, LoadOptions& load);

// Checks the options, and chooses what they leave open for models that all take `context` tokens. `servers`: how many
// share the time. The requests of a file are read later. InputError.
BenchPlan plan_of(const LoadOptions& load, std::int64_t context, int servers);
// Tokens of a sequence that this plan needs at most, if `context` allows: with them the cache is sized.
// max_num_batched_tokens: of a step; 0: 2048.
std::int64_t longest_sequence(const BenchPlan& plan, std::int64_t context, std::int64_t max_num_batched_tokens);

}  // namespace upcycle
