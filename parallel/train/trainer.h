#pragma once
#include <memory>
#include <vector>

#include "core/config/config.h"
#include "core/host_array.h"
#include "parallel/train/batch_documents.h"
#include "parallel/train/optimizer.h"

namespace upcycle {

class Faults;        // faults.h
struct Transformer;  // include transformer.h to read a model's parts

// On the device, of all layers (router_bias.h): fp32 (E L + 1).
struct RouterBiases {
  Tensor directions;  // of the moves of a step; then 1
};

// What is known of steps that were skipped (Skipped, step.h), and of losses by which the next may be.
struct SkippedSteps {
  std::int64_t total = 0, in_a_row = 0;
  std::vector<double> losses;  // train.max_loss_z_score: the last train.loss_window accepted, the oldest first
};

// Everything one rank trains with. Moves as a whole; nothing of it is allocated during a step.
struct Trainer {
  Trainer();
  ~Trainer();
  Trainer(Trainer&&) noexcept;
  Trainer& operator=(Trainer&&) noexcept;

  Config config;
  const Mesh* mesh = nullptr;
  Device* device = nullptr;
  Stream* stream = nullptr;
  Ops* ops = nullptr;
  Ops* host_ops = nullptr;  // the CPU's, beside a GPU; null where there is none, or no need

  // Destroyed in reverse order: copies from these may be in flight until the device's memory is freed.
  HostArray<std::int32_t> host_tokens, host_targets;  // this rank's sequences of one step; of the whole batch at most
  BatchDocuments documents;                           // where theirs lie
  HostArray<double> host_sums;  // (2 + (4 + E) L): Activations::step_sums, summed over dp; the gradient's squared norm
  HostArray<float> bias_directions;  // RouterBiases::directions
  TrainMemory memory;
  Arena activations{"activations"};
  std::unique_ptr<Transformer> model;  // behind a pointer: the optimizer refers to it. Its weights may be in transfer
  Optimizer optimizer;
  Batch batch;  // on the device
  RouterBiases biases;
  Event state_read;  // the latest copy of masters and moments (take_snapshot): the update waits for it

  double flops_per_token = 0;

  std::int64_t step = 0, consumed_samples = 0, tokens = 0;
  double flops = 0, wall_seconds = 0;
  SkippedSteps skips;
  std::shared_ptr<Faults> faults;  // debug.inject; null: none

  const ParamTable& table() const { return *optimizer.table; }  // the model's
};

// Plans, allocates and binds everything; parameters are zero until initialised or loaded. Throws InputError where
// batch, model and layout do not fit together. `host_ops`: the CPU's, which train.optimizer_offload needs beside a GPU.
Trainer make_trainer(const Config& config, const Mesh& mesh, Device& device, Stream& stream, Ops& ops,
                     Ops* host_ops = nullptr);

// Sequences of the next step, over all ranks (batch_ramp.h).
std::int64_t batch_of_step(const Trainer& trainer);

// The number of groups of several ranks that this run uses for tensors: on GPUs each has an NCCL communicator
// (comm_nccl.h).
int nccl_communicators(const Config& config, const Layout& layout);

// Bytes by class: what make_trainer allocates, the communicators' scratch (on CUDA an estimate of what CUDA and NCCL
// take) and, if checkpoints are written, the snapshot.
std::vector<MemoryClass> plan_trainer(const Config& config, const Mesh& mesh, Ops& ops);

PassShape training_pass(const Config& config);

}  // namespace upcycle
