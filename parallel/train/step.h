#pragma once
#include <functional>
#include <span>
#include <vector>

#include "parallel/model/router.h"
#include "parallel/train/trainer.h"

namespace upcycle {

// Gives sequence `index` of the run (0-based, the same on every layout): S tokens and S targets (-1: not counted).
using SequenceSource =
    std::function<void(std::int64_t index, std::span<std::int32_t> tokens, std::span<std::int32_t> targets)>;

// Why a step changed nothing.
enum class Skipped : std::uint8_t {
  No,
  NotFinite,  // the loss or a gradient
  LossSpike,  // train.max_loss_z_score
};

struct StepResult {
  double loss = 0;                  // mean negative log-likelihood of the step's valid tokens (nats)
  double aux_loss = 0, z_loss = 0;  // before the coefficient, mean over MoE layers
  double grad_norm = 0, lr = 0;
  double decoupled_lr = 0;               // of the embedding and the output layer
  std::int64_t samples = 0, tokens = 0;  // of the step, all ranks
  Skipped skipped = Skipped::No;
  double z_score = 0;                 // of the loss, where train.max_loss_z_score asks for it
  std::vector<RouterMetrics> layers;  // per layer; zero if it is dense
};

// Microbatches, reduce, clip, update, gather. The gathered parameters may still be on their way
// (Transformer::arrivals). A skipped step changes nothing but consumed_samples, on every rank. Throws WrongNumber
// (wrong_number.h) in the steps that train.check_replicas_every and recompute_check_every name.
StepResult train_step(Trainer& t, const SequenceSource& source);

// The same up to the reduced raw gradients, gradient_piece (parity tests compare them); no update.
StepResult compute_gradients(Trainer& t, const SequenceSource& source);

}  // namespace upcycle
