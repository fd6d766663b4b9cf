#pragma once
#include <span>
#include <string>
#include <vector>

#include "parallel/upcycle/idle_memory.h"

// Measures how much upcycling changed the function: the dense logits of a real batch before, the MoE's after.
namespace upcycle {

// Tokens of the sequence that logits are compared on: at most 256, a multiple of tp.
std::int64_t probe_length(std::int64_t seq_length, int tp);

// Logits fp32 of the last rows of one sequence of tokens (T divisible by tp), this tp rank's part of the vocabulary:
// (rows, V_valid), as many rows as fit in 8 MiB; by a forward pass over the given weights in the run's dtype.
// Activations use `idle`, which is overwritten, or, if that is too small, a temporary arena.
std::vector<float> probe_logits(const Trainer& t, const ModelConfig& model, const FlatPair& weights,
                                const IdleMemory& idle, std::span<const std::int32_t> tokens);

// ||after - before|| / ||before|| over the whole vocabulary.
double relative_change(std::span<const float> before, std::span<const float> after, Communicator& tp);

struct UpcycleReport {
  double change = 0;     // relative L2 of the logits
  bool exact = false;    // whether the mode promises the dense function (promises_exact)
  double tolerance = 0;  // enforced where it does: 1e-5 in fp32, 2e-2 in bf16
  double seconds = 0;    // this rank's, from a checkpoint: reading and making, without the passes that measure
  std::string text() const;
};
// Throws Error when an exact mode changed the function by more than the tolerance.
UpcycleReport judge_change(const Trainer& t, double change);

}  // namespace upcycle
