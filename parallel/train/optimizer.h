#pragma once
#include <vector>

#include "core/device.h"
#include "kernels/op_types.h"
#include "parallel/comm/mesh.h"
#include "parallel/model/arrivals.h"
#include "parallel/train/train_memory.h"

namespace upcycle {

class Ops;

struct OwnedRange {
  std::int64_t begin, end;  // elements
};
struct BucketSum {
  const Bucket* bucket;
  ParamGroup group;
  Event event;
};

// ZeRO-1 (arXiv 1910.02054) on one rank: gradients are summed over replicas into the owner's part, the owner updates
// its fp32 masters, and the rounded parameters are gathered back.
struct Optimizer {
  const ParamTable* table;
  Arrivals* arrivals;  // the model's: what is gathered
  const Mesh* mesh;
  Device* device;
  Ops* ops;
  Stream* stream;
  Workspace workspace;
  TrainConfig config;
  std::vector<OwnedPiece> updated;      // what this rank updates: its pieces, copies of tp-replicated rows too
  std::vector<OwnedPiece> counted;      // what it owns: each logical element on one rank of the mesh
  std::vector<std::int64_t> row_steps;  // updates so far, per row of the table
  std::vector<std::uint8_t> frozen;     // per row of the table
  std::vector<OwnedRange> replicated;   // of the dense buffer, by offset: owned parts of rows replicated over tp
  std::vector<BucketSum> sums;          // in flight: of buckets being reduced
  std::vector<Event> sums_over_tp;      // in flight
};

Optimizer make_optimizer(const ParamTable& table, Arrivals& arrivals, const Mesh& mesh, Device& device, Ops& ops,
                         Stream& stream, Workspace workspace, const TrainConfig& config);

// Throws InputError for a pattern of train.freeze that matches no parameter of the model.
void check_freeze(const ModelConfig& model, const std::vector<std::string>& patterns);

void zero_gradients(Optimizer& o, TrainMemory& memory);

// Starts the sums of one part of the model (Bucket::layer) whose gradients are complete: reduce-scatter of its buckets
// over dp or edp, overlapping with the backward of the layers below.
void start_reduction(Optimizer& o, TrainMemory& memory, std::int64_t layer);
// Waits for all that was started, then sums over tp the owned pieces of rows that are replicated there (under sequence
// parallelism each rank saw its own tokens): grads hold the step's raw gradient in the owned pieces.
//
// The sum over tp comes last because only then all of its ranks get the same bits: the dp groups of two tp ranks may
// add in different orders (NCCL's do, NVIDIA/nccl issue 2091), and the replicas would drift apart.
void finish_reduction(Optimizer& o, TrainMemory& memory);

// Starts to copy this rank's part of the squared norm of the raw gradient to `sum_squares`, in memory that
// Device::allocate_host gave: of all parameters that are not frozen, each logical element on one rank of the mesh.
void start_norm(Optimizer& o, TrainMemory& memory, double& sum_squares);
// Once the stream is synchronized: makes it the squared global norm, added up in rank order on the host, so that it is
// the same on all ranks, and sets memory.scale to the clipping factor.
void clip_gradients(Optimizer& o, TrainMemory& memory, double& sum_squares);

// Updates every owned piece once, with memory.scale, one part of the model (Bucket::layer) after another in forward
// order; counts steps per row. Each part is gathered from its owners as soon as it is updated: the model's arrivals
// list the gathers in flight.
void update_parameters(Optimizer& o, TrainMemory& memory, double lr);
// Gathers one group's parameters from their owners, and waits for them.
void gather_parameters(Optimizer& o, TrainMemory& memory, ParamGroup group);

// Copies the parameters into the masters (a fresh start from random weights).
void masters_from_weights(Optimizer& o, TrainMemory& memory);

// Throws Error naming the first parameter whose replicas differ in any bit (compares a hash over dp, edp and, for
// replicated rows, tp).
void check_replicas(Optimizer& o, const TrainMemory& memory);

}  // namespace upcycle
