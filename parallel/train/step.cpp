#include "parallel/train/step.h"

#include <cmath>
#include <limits>

#include "core/flight_record.h"
#include "core/trace.h"
#include "kernels/ops.h"
#include "parallel/model/transformer.h"
#include "parallel/train/faults.h"
#include "parallel/train/loss_window.h"
#include "parallel/train/microbatch.h"
#include "parallel/train/recompute_check.h"
#include "parallel/train/reduction.h"
#include "parallel/train/router_bias.h"
#include "parallel/train/schedule.h"
#include "parallel/train/update.h"

namespace upcycle {
namespace {

// Forward and backward of every microbatch of this rank.
void run_microbatches(Trainer& t, double valid) {
  const std::int64_t n = microbatches_here(t);
  for (std::int64_t j = 0; j < n; ++j)
    // Gradients that are complete start their sum over the replicas under what is left of the backward.
    run_microbatch(t, j, valid, [&](std::int64_t layer) { start_reduction(t.optimizer, t.memory, layer, j + 1 == n); });
}

// Everything up to the reduced raw gradients, issued; loss and router metrics, summed over dp in one collective, are on
// their way to the host. The step's valid tokens.
double start_gradients(Trainer& t, const SequenceSource& source) {
  load_step(t, source);
  const double valid = valid_tokens(t);
  const Tensor& sums = t.model->activations.step_sums;
  t.ops->fill(*t.stream, sums, 0);
  if (const Tensor& running = t.model->activations.running) t.ops->fill(*t.stream, running, 0);
  zero_gradients(t.optimizer, t.memory);
  run_microbatches(t, valid);
  const InPhase phase(Phase::Reducing);
  finish_reduction(t.optimizer, t.memory);
  t.stream->wait(t.mesh->dp->all_reduce(sums));
  t.device->copy_to_host(*t.stream, t.host_sums.data(), sums.data, sums.bytes());
  return valid;
}

// The result from host_sums.
StepResult summarize(const Trainer& t, double valid_global) {
  StepResult result;
  result.loss = valid_global > 0 ? t.host_sums[0] / valid_global : 0;
  const std::int64_t E = t.model->sizes.E;
  double layers = 0;
  for (std::int64_t l = 0; l < t.config.model.num_hidden_layers; ++l) {
    const double* r = t.host_sums.data() + 1 + (4 + E) * l;
    RouterMetrics layer{r[0], r[1], r[2], r[3]};
    if (t.config.model.is_moe_layer(l)) layer.assignments.assign(r + 4, r + 4 + E);
    result.layers.push_back(layer);
    result.aux_loss += r[0];
    result.z_loss += r[1];
    layers += t.config.model.is_moe_layer(l) ? 1 : 0;
  }
  if (layers > 0) result.aux_loss /= layers, result.z_loss /= layers;
  return result;
}

// Whether the step that the trainer is to make is one of each `every`; 0: none is.
bool is_due(const Trainer& t, std::int64_t every) { return every > 0 && (t.step + 1) % every == 0; }

// Decides, from numbers that are the same on all ranks, and counts.
bool is_skipped(Trainer& t, StepResult& result) {
  const TrainConfig& c = t.config.train;
  if (!std::isfinite(result.grad_norm)) {
    result.skipped = Skipped::NotFinite;
  } else if (c.max_loss_z_score > 0) {
    result.z_score = loss_z_score(t.skips.losses, c.loss_window, result.loss);
    if (result.z_score > c.max_loss_z_score)
      result.skipped = Skipped::LossSpike;
    else
      accept_loss(t.skips.losses, c.loss_window, result.loss);
  }
  const bool skipped = result.skipped != Skipped::No;
  t.skips.total += skipped ? 1 : 0;
  t.skips.in_a_row = skipped ? t.skips.in_a_row + 1 : 0;
  return skipped;
}

}  // namespace

StepResult compute_gradients(Trainer& t, const SequenceSource& source) {
  const double valid = start_gradients(t, source);
  t.stream->synchronize();
  return summarize(t, valid);
}

StepResult train_step(Trainer& t, const SequenceSource& source) {
  const TraceRange range("step");
  if (t.faults != nullptr) t.faults->begin_step(t);
  flight_step(t.step + 1);
  if (is_due(t, t.config.train.recompute_check_every)) {
    load_step(t, source);
    check_recompute(t);
  }
  const double valid = start_gradients(t, source);
  const InPhase phase(Phase::Updating);
  double& sum_squares = t.host_sums[t.host_sums.size() - 1];
  start_norm(t.optimizer, t.memory, sum_squares);
  t.stream->synchronize();  // once a step: nothing may be updated before its numbers are known to be finite
  StepResult result = summarize(t, valid);
  // Part of the norm, which is the same number on every rank: all skip the step, or none does.
  if (!std::isfinite(result.loss)) sum_squares = std::numeric_limits<double>::quiet_NaN();
  clip_gradients(t.optimizer, t.memory, sum_squares);
  result.grad_norm = std::sqrt(sum_squares);
  result.samples = batch_of_step(t);
  result.tokens = result.samples * t.config.train.seq_length;
  t.consumed_samples += result.samples;
  if (is_skipped(t, result)) return result;
  // Before the update: an owner's wrong parameter would reach every replica with it, and a replica's would be lost.
  if (is_due(t, t.config.train.check_replicas_every)) check_replicas(t.optimizer, t.memory);
  if (t.optimizer.offload != nullptr) finish(t.state_read);
  t.stream->wait(t.state_read);
  const LearningRates rates = learning_rates(t.config, {t.step, t.tokens});
  move_router_biases(t);
  update_parameters(t.optimizer, t.memory, rates);

  result.lr = rates.general;
  result.decoupled_lr = rates.decoupled;
  t.step += 1;
  t.tokens += result.tokens;
  t.flops += static_cast<double>(result.tokens) * t.flops_per_token;
  return result;
}

}  // namespace upcycle
