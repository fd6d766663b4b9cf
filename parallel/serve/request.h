#pragma once
#include <cstdint>
#include <vector>

namespace upcycle {

// How a request's tokens are drawn. OpenAI's and vLLM's names and meanings.
struct SamplingOptions {
  double temperature = 0.8;  // 0: greedy
  std::int64_t top_k = 0;    // 0: all
  double top_p = 0.95;       // 1: all
  std::uint64_t seed = 1;    // its n-th token is drawn by (seed, n): the same in any batch
};

struct Request {
  std::int64_t id = 0;               // unique among the requests of a run
  std::vector<std::int32_t> prompt;  // at least one token
  std::int64_t max_tokens = 1;       // new ones, at least one
  std::vector<std::int32_t> stop;    // tokens that end it, emitted as its last
  SamplingOptions sampling;
};

}  // namespace upcycle
