#include <algorithm>

#include "core/trace.h"
#include "parallel/train/schedule.h"
#include "parallel/train/trainer.h"

namespace upcycle {
namespace {

// This rank's sequences of the step. Which sequences form which microbatch is global: microbatch j is sequences
// [j * micro_batch_size, ...), and dp rank r takes the r-th run of microbatches.
void load_step(Trainer& t, const SequenceSource& source) {
  const auto S = static_cast<std::size_t>(t.config.train.seq_length);
  const std::size_t mine = t.host_tokens.size() / S;
  const std::int64_t first = t.consumed_samples + static_cast<std::int64_t>(mine) * t.mesh->at.dp;
  for (std::size_t i = 0; i < mine; ++i)
    source(first + static_cast<std::int64_t>(i), std::span(t.host_tokens).subspan(i * S, S),
           std::span(t.host_targets).subspan(i * S, S));
}

double count_valid(std::span<const std::int32_t> targets) {
  return static_cast<double>(std::count_if(targets.begin(), targets.end(), [](std::int32_t x) { return x >= 0; }));
}

double read_scalar(Trainer& t, const Tensor& scalar) {
  double value = 0;
  t.device->copy_to_host(*t.stream, &value, scalar.data, sizeof value);
  t.stream->synchronize();
  return value;
}

// Forward and backward of every microbatch of this rank. The only division of gradients is by the global number of
// valid tokens, which is known before the first backward.
void run_microbatches(Trainer& t, double valid_global) {
  Transformer& m = *t.model;
  const auto T = static_cast<std::size_t>(m.T());
  for (std::size_t begin = 0; begin < t.host_tokens.size(); begin += T) {
    const auto targets = std::span<const std::int32_t>(t.host_targets).subspan(begin, T);
    const LossScale scale{valid_global, count_valid(targets)};
    t.device->copy_from_host(*t.stream, t.batch.tokens.data, t.host_tokens.data() + begin, t.batch.tokens.bytes());
    t.device->copy_from_host(*t.stream, t.batch.targets.data, targets.data(), t.batch.targets.bytes());
    forward(m, t.batch, scale.share());
    backward(m, t.batch, scale);
  }
}

void summarize_router(Trainer& t, StepResult& result) {
  result.layers = t.model->router_metrics;
  double layers = 0;
  for (std::size_t l = 0; l < result.layers.size(); ++l) {
    if (!t.config.model.is_moe_layer(static_cast<std::int64_t>(l))) continue;
    RouterMetrics& r = result.layers[l];
    for (double* x : {&r.aux, &r.z, &r.entropy, &r.load_max_over_mean}) *x = t.mesh->dp->sum_of(*x);
    result.aux_loss += r.aux;
    result.z_loss += r.z;
    ++layers;
  }
  if (layers > 0) result.aux_loss /= layers, result.z_loss /= layers;
}

}  // namespace

StepResult compute_gradients(Trainer& t, const SequenceSource& source) {
  StepResult result;
  load_step(t, source);
  const double valid = t.mesh->dp->sum_of(count_valid(t.host_targets));
  std::fill(t.model->router_metrics.begin(), t.model->router_metrics.end(), RouterMetrics{});
  t.ops->fill(*t.stream, t.model->activations.loss_sum, 0);
  zero_gradients(t.optimizer, t.memory);
  run_microbatches(t, valid);
  reduce_gradients(t.optimizer, t.memory);
  const double loss_sum = t.mesh->dp->sum_of(read_scalar(t, t.model->activations.loss_sum));
  result.loss = valid > 0 ? loss_sum / valid : 0;
  summarize_router(t, result);
  return result;
}

StepResult train_step(Trainer& t, const SequenceSource& source) {
  const TraceRange range("step");
  StepResult result = compute_gradients(t, source);
  result.grad_norm = clip_gradients(t.optimizer, t.memory);
  result.lr = learning_rate(t.config.train, t.step, total_steps(t.config.train));
  update_parameters(t.optimizer, t.memory, result.lr);

  result.tokens = t.config.train.global_batch_size * t.config.train.seq_length;
  t.step += 1;
  t.consumed_samples += t.config.train.global_batch_size;
  t.tokens += result.tokens;
  t.flops += static_cast<double>(result.tokens) * training_flops_per_token(t.config.model, t.config.train.seq_length);
  return result;
}

}  // namespace upcycle
