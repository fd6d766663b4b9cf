#pragma once
#include "data/sampler.h"

namespace upcycle {

struct Batch;
struct Transformer;

struct EvalResult {
  double loss = 0;          // mean negative log-likelihood (nats) of the predicted tokens
  std::int64_t tokens = 0;  // predicted
};

// Walks the windows (stride S = batch's sequence length, every token but the first predicted once), B at a time,
// divided over dp. `most_windows`: uses at most so many, 0 = all. A collective call; the same result on every rank.
EvalResult evaluate(Transformer& m, const Batch& batch, const EvalWindows& windows, std::int64_t most_windows);

}  // namespace upcycle
