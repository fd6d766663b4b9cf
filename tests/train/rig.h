#pragma once
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/measure.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/train/step.h"
#include "parallel/train/trainer.h"

namespace upcycle {

// The backend under test, which the executable is linked with (tests/kernels/test_backend.h): test files are compiled
// once for all backends.
std::unique_ptr<Device> make_rig_device();
std::shared_ptr<Ops> make_rig_ops();
std::shared_ptr<Ops> make_host_ops();  // the CPU's

// A device, its stream and its ops: what tests of models and training use.
struct Rig {
  std::unique_ptr<Device> device = make_rig_device();
  std::unique_ptr<Stream> stream = device->make_stream();
  std::shared_ptr<Ops> ops = make_rig_ops(), host_ops = make_host_ops();
};
// The CPU's, whatever backend is under test: the reference for other backends.
Rig cpu_rig();
// A mesh of one rank whose tensors lie on the rig's device.
Mesh single_mesh(const Rig& rig);

// Waits for the stream. `to` has x.size() elements of `bytes_each` bytes.
void copy_elements(Device& device, Stream& stream, void* to, std::size_t bytes_each, const Tensor& x);

// Copies a device tensor to the host once the stream's work is done, and back; contiguous tensors.
template <class T>
std::vector<T> values_of(Device& device, Stream& stream, const Tensor& x) {
  std::vector<T> values(static_cast<std::size_t>(x.size()));
  copy_elements(device, stream, values.data(), sizeof(T), x);
  return values;
}
bool lies_in(const Arena& arena, const Tensor& x);
template <class T>
std::vector<T> values_of(const Trainer& t, const Tensor& x) {
  if (lies_in(t.memory.host_state, x)) return {x.as<T>(), x.as<T>() + x.size()};
  return values_of<T>(*t.device, *t.stream, x);
}
std::vector<float> floats_of(const Trainer& t, const Tensor& x);                         // fp32 or bf16
std::vector<float> owned_floats(const Trainer& t, StateKind kind, const OwnedPiece& p);  // in whatever form it lies
void set_floats(const Trainer& t, const Tensor& x, std::span<const float> values);       // rounded where x is bf16

// A run on given sequences: sequence i is row i of tokens and targets (n, S), wrapping around.
struct FixedSequences {
  std::int64_t S;
  std::vector<std::int32_t> tokens, targets;

  SequenceSource source() const {
    return [this](std::int64_t index, std::span<std::int32_t> to, std::span<std::int32_t> to_targets) {
      const auto n = static_cast<std::int64_t>(tokens.size()) / S;
      const auto at = static_cast<std::size_t>(index % n * S);
      for (std::size_t i = 0; i < to.size(); ++i) {
        to[i] = tokens[at + i];
        to_targets[i] = targets[at + i];
      }
    };
  }
};

// Pseudo-random sequences of a vocabulary, next-token targets.
FixedSequences random_sequences(std::int64_t n, std::int64_t S, std::int64_t V, std::uint64_t seed);

// A small, ragged configuration for fp32 training: H 24, F 20, L 2, N 4, K 2, V 37, S 9, batch 4.
Config small_config();

// The same as an MoE: E 4, k 2, expert size 12, a load-balancing and a z-loss.
Config small_moe_config();

// A trainer with random weights of config.seed; router logits are spread so that top-k gaps are not tiny.
Trainer random_trainer(const Rig& rig, const Config& config, const Mesh& mesh);

// Loss as backward differentiates it: the LM's plus the router losses with their coefficients.
double whole_loss(const Config& config, const StepResult& result);

// All that a trainer keeps between steps and a checkpoint holds, by canonical name: masters, moments, weights in their
// own type (as floats). Exactly comparable.
struct TrainedState {
  struct Parameter {
    std::vector<float> weight, master, m, v;
    std::int64_t steps = 0;
    bool operator==(const Parameter&) const = default;
  };
  std::map<std::string, Parameter> parameters;
  std::int64_t step = 0, consumed_samples = 0, tokens = 0;
  double flops = 0;
};
TrainedState state_of(const Trainer& t);  // one rank
void expect_same_state(const TrainedState& a, const TrainedState& b);

// Chosen experts (T_local, k) of one layer's last microbatch, and the smallest gap between the logits (of sigmoids: the
// biased scores) of the k-th and the next expert of any of its tokens.
std::vector<std::int32_t> chosen_experts(const Trainer& t, std::int64_t layer);
double smallest_gap(const Trainer& t, std::int64_t layer);

// The raw gradient of one table row after compute_gradients, one rank.
std::vector<float> gradient_of(const Trainer& t, const ParamRow& row);

// Clips the gradients of compute_gradients; their norm before.
double clipped_norm(Trainer& t);

}  // namespace upcycle
