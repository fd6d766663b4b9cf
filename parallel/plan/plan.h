#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "core/trace.h"
#include "kernels/dry/dry_ops.h"
#include "parallel/train/offload.h"
#include "parallel/train/trainer.h"
#include "parallel/upcycle/live_plan.h"

// What a run will need, without running it: the trainer itself, on a device without memory, with ops that compute
// nothing and groups that no other rank is in. So the plan can not differ from the run.
namespace upcycle {

struct PlannedRun {
  Config config;                     // its model is the one that the steps train: the MoE of a run that upcycles
  std::optional<ModelConfig> dense;  // what init.upcycle or upcycle.at_step makes it from
  WorkspaceBytes workspace_bytes;    // of the ops of config.device
};

struct Plan {
  Layout layout;
  int rank = 0;
  Coordinates at;
  ParameterCount parameters;                   // of the whole model
  std::int64_t tokens = 0, micro_batches = 0;  // per step: of all ranks; passes of this one

  std::vector<MemoryClass> memory;  // bytes of this rank while it trains, by class
  // The total during a temporary peak: at init.upcycle's start (the logits before and after; nothing is saved yet), or
  // when upcycle.at_step makes the MoE's trainer beside the dense one. 0 if the run has neither.
  std::size_t upcycling_bytes = 0;
  LiveBytes live;                      // that this rank gives to collectives when upcycle.at_step converts
  std::size_t training_bytes() const;  // where the ops run: without what lies beside a GPU
  std::size_t peak_bytes() const;
  // In host memory: on a GPU what lies beside it, else peak_bytes().
  std::size_t host_bytes(bool cuda) const;

  // One step of this rank, in bytes that it gives. Those of `fixed` do not depend on the routing; the dispatch (all
  // tokens' rows to their experts and back, those that stay included) is this rank's where routing is even, and the
  // total of all ranks, which is the same for any routing.
  std::vector<CollectiveCount> fixed;
  CollectiveCount dispatch;
  std::uint64_t dispatch_total = 0;

  double flops = 0, flops_total = 0;  // per step, this rank's and all ranks'; recomputation counts
  double memory_bytes = 0;            // that this rank's products read and write per step
  std::size_t recomputed_bytes = 0;   // of this rank's activations, that are made again per step
  OffloadCost offload;                // of train.optimizer_offload on a GPU, this rank's per step; 0 without
  double model_flops = 0;             // training_flops_per_token of all tokens: without recomputation

  // Data of a checkpoint, bytes (HDF5 adds a few hundred per rectangle): this rank's files, and all ranks'.
  std::size_t model_file = 0, optimizer_file = 0;
  std::size_t files_total = 0;
  std::size_t model_alone = 0, model_alone_total = 0;  // of what checkpoint.model_every saves; 0: nothing
};

// Bytes by class while upcycle.at_step makes the MoE's trainer beside the dense one, of both trainers' plans
// (plan_trainer): both arenas, the exchange's buffers and the communicators' scratch, which the two share; no snapshot,
// because the dense one is freed before and the MoE's made after.
std::vector<MemoryClass> conversion_memory(const std::vector<MemoryClass>& dense, const std::vector<MemoryClass>& moe);

// What a run of this layout would be refused for; "" where nothing is wrong.
std::string layout_problem(const PlannedRun& run, const Layout& layout);

// The run's layout of `world` ranks. Throws InputError where layout, model and batch do not fit together, naming the
// nearest layouts that do.
Layout check_layout(const PlannedRun& run, int world);

// Throws InputError as check_layout does.
Plan make_plan(const PlannedRun& run, int world, int rank = 0);
// Of a layout that has no problem.
Plan make_plan(const PlannedRun& run, const Layout& layout, int rank);

}  // namespace upcycle
