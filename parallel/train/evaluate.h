#pragma once
#include <functional>
#include <span>

#include "data/sampler.h"

namespace upcycle {

struct Batch;
struct Transformer;

struct EvalResult {
  double loss = 0;          // mean negative log-likelihood (nats) of the predicted tokens
  std::int64_t tokens = 0;  // predicted
};

// Told of each window that this rank's replica evaluates: nll (S) of its targets, 0 past the end of the set.
using WindowSeen = std::function<void(std::int64_t window, std::span<const float> nll)>;

// Walks the windows (stride S = batch's sequence length, every token but the first predicted once), B at a time,
// divided over dp. `most_windows`: uses at most so many, 0 = all. A collective call; the same result on every rank.
EvalResult evaluate(Transformer& m, const Batch& batch, const EvalWindows& windows, std::int64_t most_windows,
                    const WindowSeen& seen = {});

}  // namespace upcycle
