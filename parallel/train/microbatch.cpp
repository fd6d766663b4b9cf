#include "parallel/train/microbatch.h"

#include <algorithm>

#include "core/flight_record.h"
#include "parallel/train/faults.h"
#include "parallel/train/reduction.h"

namespace upcycle {
namespace {

// Tokens of this rank's sequences in the step: all that host_tokens has room for, or fewer while the batch grows.
std::size_t tokens_here(const Trainer& t) {
  return static_cast<std::size_t>(batch_of_step(t) / t.mesh->layout.dp * t.config.train.seq_length);
}

double count_valid(std::span<const std::int32_t> targets) {
  return static_cast<double>(std::count_if(targets.begin(), targets.end(), [](std::int32_t x) { return x >= 0; }));
}

}  // namespace

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

std::int64_t microbatches_here(const Trainer& t) { return static_cast<std::int64_t>(tokens_here(t)) / t.model->T(); }

double valid_tokens(const Trainer& t) {
  // Each dp rank's, from one of its tp ranks. Over the world: in dp's queue it would come behind the gathers of
  // parameters.
  return t.mesh->world->sum_of(t.mesh->at.tp == 0 ? count_valid(std::span(t.host_targets).first(tokens_here(t))) : 0);
}

void run_microbatch(Trainer& t, std::int64_t j, double valid, const GradientsReady& ready) {
  Transformer& m = *t.model;
  const auto T = static_cast<std::size_t>(m.T()), begin = static_cast<std::size_t>(j) * T;
  const auto targets = std::span<const std::int32_t>(t.host_targets).subspan(begin, T);
  const LossScale scale{valid, count_valid(targets)};
  t.device->copy_from_host(*t.stream, t.batch.tokens.data, t.host_tokens.data() + begin, t.batch.tokens.bytes());
  t.device->copy_from_host(*t.stream, t.batch.targets.data, targets.data(), t.batch.targets.bytes());
  t.documents.put(*t.device, *t.stream, t.batch, j);
  if (t.faults != nullptr && m.observer == nullptr) m.observer = t.faults.get();
  InPhase phase(Phase::Forward);
  forward(m, t.batch, scale.share());
  phase.next(Phase::Backward);
  start_backward(t.optimizer, t.memory);
  backward(m, t.batch, scale, [&](std::int64_t layer) {
    if (t.faults != nullptr) t.faults->gradients_complete(t, layer);
    ready(layer);
  });
}

}  // namespace upcycle
