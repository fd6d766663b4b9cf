#include "parallel/train/step.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "core/trace.h"
#include "kernels/ops.h"
#include "parallel/model/transformer.h"
#include "parallel/train/diverged.h"
#include "parallel/train/reduction.h"
#include "parallel/train/router_bias.h"
#include "parallel/train/schedule.h"
#include "parallel/train/update.h"

namespace upcycle {
namespace {

// Tokens of this rank's sequences in the step: all that host_tokens has room for, or fewer while the batch grows.
std::size_t tokens_here(const Trainer& t) {
  return static_cast<std::size_t>(batch_of_step(t) / t.mesh->layout.dp * t.config.train.seq_length);
}

// This rank's sequences of the step. Which sequences form which microbatch is global: microbatch j is sequences
// [j * micro_batch_size, ...), and dp rank r takes the r-th run of microbatches.
void load_step(Trainer& t, const SequenceSource& source) {
  const auto S = static_cast<std::size_t>(t.config.train.seq_length);
  const std::size_t mine = tokens_here(t) / S;
  const std::int64_t first = t.consumed_samples + static_cast<std::int64_t>(mine) * t.mesh->at.dp;
  for (std::size_t i = 0; i < mine; ++i)
    source(first + static_cast<std::int64_t>(i), std::span(t.host_tokens).subspan(i * S, S),
           std::span(t.host_targets).subspan(i * S, S));
  const auto T = static_cast<std::size_t>(t.model->T());
  for (std::size_t begin = 0; begin < mine * S; begin += T)
    t.documents.find(static_cast<std::int64_t>(begin / T), std::span(t.host_tokens).subspan(begin, T));
}

double count_valid(std::span<const std::int32_t> targets) {
  return static_cast<double>(std::count_if(targets.begin(), targets.end(), [](std::int32_t x) { return x >= 0; }));
}

// Forward and backward of every microbatch of this rank. The only division of gradients is by the global number of
// valid tokens, which is known before the first backward.
void run_microbatches(Trainer& t, double valid_global) {
  Transformer& m = *t.model;
  const auto T = static_cast<std::size_t>(m.T()), end = tokens_here(t);
  for (std::size_t begin = 0; begin < end; begin += T) {
    const auto targets = std::span<const std::int32_t>(t.host_targets).subspan(begin, T);
    const LossScale scale{valid_global, count_valid(targets)};
    t.device->copy_from_host(*t.stream, t.batch.tokens.data, t.host_tokens.data() + begin, t.batch.tokens.bytes());
    t.device->copy_from_host(*t.stream, t.batch.targets.data, targets.data(), t.batch.targets.bytes());
    t.documents.put(*t.device, *t.stream, t.batch, static_cast<std::int64_t>(begin / T));
    forward(m, t.batch, scale.share());
    // Gradients that are complete start their sum over the replicas under what is left of the backward.
    const bool last = begin + T == end;
    start_backward(t.optimizer, t.memory);
    backward(m, t.batch, scale,
             [&t, last](std::int64_t layer) { start_reduction(t.optimizer, t.memory, layer, last); });
  }
}

// Everything up to the reduced raw gradients, issued; loss and router metrics, summed over dp in one collective, are on
// their way to the host. The step's valid tokens.
double start_gradients(Trainer& t, const SequenceSource& source) {
  load_step(t, source);
  // Each dp rank's, from one of its tp ranks. Over the world: in dp's queue it would come behind the gathers of
  // parameters.
  const double valid =
      t.mesh->world->sum_of(t.mesh->at.tp == 0 ? count_valid(std::span(t.host_targets).first(tokens_here(t))) : 0);
  const Tensor& sums = t.model->activations.step_sums;
  t.ops->fill(*t.stream, sums, 0);
  if (const Tensor& running = t.model->activations.running) t.ops->fill(*t.stream, running, 0);
  zero_gradients(t.optimizer, t.memory);
  run_microbatches(t, valid);
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

}  // namespace

StepResult compute_gradients(Trainer& t, const SequenceSource& source) {
  const double valid = start_gradients(t, source);
  t.stream->synchronize();
  return summarize(t, valid);
}

StepResult train_step(Trainer& t, const SequenceSource& source) {
  const TraceRange range("step");
  const double valid = start_gradients(t, source);
  double& sum_squares = t.host_sums[t.host_sums.size() - 1];
  start_norm(t.optimizer, t.memory, sum_squares);
  t.stream->synchronize();  // once a step: nothing may be updated before its numbers are known to be finite
  clip_gradients(t.optimizer, t.memory, sum_squares);
  StepResult result = summarize(t, valid);
  result.grad_norm = std::sqrt(sum_squares);
  // Both are the same on all ranks. An update with them would spoil the masters and every later checkpoint.
  if (!std::isfinite(result.grad_norm) || !std::isfinite(result.loss))
    throw Diverged(fmt::format("step {}: loss {} and gradient norm {}: training has diverged", t.step + 1,
                               std::abs(result.loss), std::abs(result.grad_norm)));  // a NaN's sign says nothing
  if (t.optimizer.offload != nullptr) finish(t.state_read);
  t.stream->wait(t.state_read);
  const LearningRates rates = learning_rates(t.config, {t.step, t.tokens});
  move_router_biases(t);
  update_parameters(t.optimizer, t.memory, rates);

  result.lr = rates.general;
  result.decoupled_lr = rates.decoupled;
  result.samples = batch_of_step(t);
  result.tokens = result.samples * t.config.train.seq_length;
  t.step += 1;
  t.consumed_samples += result.samples;
  t.tokens += result.tokens;
  t.flops += static_cast<double>(result.tokens) * t.flops_per_token;
  return result;
}

}  // namespace upcycle
