#pragma once
#include <cstdint>
#include <string>

#include "core/config/config.h"

namespace upcycle {

// Each function throws InputError naming where the value comes from, field, found, expected and what to do.
//
// Sizes that must fit together (H % N, N % K, k <= E, expert sizes > 0 ...); `where` names the file for the message. k
// = 1 with topk_then_softmax passes, although its one weight is always 1 and the LM loss gives the router no gradient.
void check_model(const ModelConfig& model, const std::string& where);
// What a run has trained so far; steps may have had other batch sizes than the config's.
struct Trained {
  std::int64_t step = 0, tokens = 0;
};
// The step at which the run ends: train.steps, or `done.step` plus the steps that the rest of train.tokens needs,
// rounded up.
std::int64_t total_steps(const TrainConfig& train, const Trained& done = {});
// Tokens trained on when the run ends there.
std::int64_t total_tokens(const TrainConfig& train, const Trained& done = {});
// Checks everything but the model and data: steps or tokens, divisible batch sizes, known modes. As long as the model
// is unknown (hidden_size 0, to be inherited from `init`), seq_length is not compared with its positions: call it again
// later.
void check_train(const Config& config, const Trained& done = {});
// The data that `train` reads: token sets with paths and weights, a validation set if eval_every > 0.
void check_data(const Config& config);

// With sizes of 0 replaced by what they stand for, so that both compare equal.
ModelConfig spelled_out(ModelConfig model);

}  // namespace upcycle
