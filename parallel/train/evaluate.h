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

// Told of each window that this rank's replica evaluates: its targets (S), -1 where nothing is predicted, and their nll
// (S), 0 there.
using WindowSeen =
    std::function<void(std::int64_t window, std::span<const std::int32_t> targets, std::span<const float> nll)>;

// Walks the windows (stride S = batch's sequence length), B at a time, divided over dp; documents lie apart as the
// windows' rules say, for which the batch must be laid out. `most_windows`: uses at most so many, 0 = all. A collective
// call; the same result on every rank.
EvalResult evaluate(Transformer& m, const Batch& batch, const EvalWindows& windows, std::int64_t most_windows,
                    const WindowSeen& seen = {});

}  // namespace upcycle
