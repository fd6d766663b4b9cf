#pragma once
#include <cstdint>
#include <string>

#include "core/config/config.h"

namespace upcycle {

// Each of these throws InputError naming where the value comes from, field, found, expected and what to do.
//
// Sizes that must fit together (H % N, N % K, k <= E, expert sizes > 0 ...); `where` names the file for the message.
// k = 1 under topk_then_softmax passes, though its one weight is always 1 and the LM gives the router no gradient.
void check_model(const ModelConfig& model, const std::string& where);
// What a run has trained so far: its batches may have had other sizes than now.
struct Trained {
  std::int64_t step = 0, tokens = 0;
};
// The step at which the run ends: train.steps, or as many as train.tokens needs beyond those that were trained, in
// whole steps, rounded up.
std::int64_t total_steps(const TrainConfig& train, const Trained& done = {});
// What a training step needs beyond a model: steps or tokens, batch divisible, known names of modes. Before the model
// is known (hidden_size 0, to be inherited from `init`) seq_length is not compared with its positions: call it again.
void check_train(const Config& config, const Trained& done = {});
// What `train` reads: token sets named and weighted, a validation set where eval_every asks for one.
void check_data(const Config& config);

}  // namespace upcycle
